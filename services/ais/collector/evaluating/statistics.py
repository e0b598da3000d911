"""From rewards to scores: means, intervals and pass@k. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ais.contracts.evaluation.results import Estimate, SourceScore
from ais.contracts.evaluation.settings import ks_of
from ais.contracts.reward_components import MOST_COMPONENTS

NORMAL_95 = 1.96
"""Standard errors in half of a 95% interval of a mean of many prompts."""


@dataclass(frozen=True)
class Answered:
    """The responses to one prompt."""

    rewards: tuple[float, ...]
    lengths: tuple[int, ...]
    """In tokens."""
    truncated: int
    """Responses cut off."""
    components: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Scores by named component of the reward."""


def score_of(source: str, answered: Sequence[Answered], unanswered: int, pass_reward: float) -> SourceScore:
    """Scores of one source, over at least one prompt, each with as many responses."""
    samples = len(answered[0].rewards)
    passes = [sum(reward >= pass_reward for reward in one.rewards) for one in answered]
    return SourceScore(
        source=source,
        prompts=len(answered),
        unanswered=unanswered,
        samples=samples,
        reward=estimate(statistics.fmean(one.rewards) for one in answered),
        passed={k: estimate(pass_at(k, samples, count) for count in passes) for k in ks_of(samples)},
        components=components_of(answered),
        response_length_mean=statistics.fmean(length for one in answered for length in one.lengths),
        truncated_share=sum(one.truncated for one in answered) / (samples * len(answered)),
    )


def components_of(answered: Sequence[Answered]) -> dict[str, Estimate]:
    """Mean score by component, over the prompts that have it: the first `MOST_COMPONENTS` names."""
    names = islice(dict.fromkeys(name for one in answered for name in one.components), MOST_COMPONENTS)
    return {
        name: estimate(statistics.fmean(one.components[name]) for one in answered if name in one.components)
        for name in names
    }


def pass_at(k: int, samples: int, passed: int) -> float:
    """The chance that one of `k` responses passes, where `passed` of `samples` did: 1 - C(samples - passed, k) /
    C(samples, k), without bias (Chen et al., arXiv 2107.03374, section 2.1)."""
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def estimate(values: Iterable[float]) -> Estimate:
    """The mean of independent values. One value has no interval to be known: 0."""
    known = list(values)
    spread = statistics.stdev(known) if len(known) > 1 else 0.0
    return Estimate(mean=statistics.fmean(known), interval=NORMAL_95 * spread / math.sqrt(len(known)))
