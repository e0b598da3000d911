"""What one cell came to, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

from ais.comparison.records import Record

LATE = 3
"""A score that swings shows in one evaluation by chance: late scores are means of the last so many."""
EARLY = (0.2, 0.4)
"""Shares of the steps at which early exploration is read."""
WINDOW = 0.1
"""... as the mean reward of the batches of this share of the steps before."""


@dataclass(frozen=True)
class Measures:
    """Rewards are in the task's units. NaN: not measured."""

    p_late: float
    """Held-out reward of the BF16 policy, mean of the last evaluations."""
    q_late: float
    """The same of the policy that samples."""
    p_end: float
    """Held-out reward of the BF16 policy after the last step."""
    q_end: float
    """The same of the policy that samples."""
    p_fall: float
    """Collapse: the worst fall of the BF16 policy's held-out reward from a peak before it."""
    q_fall: float
    """The same of the policy that samples."""
    early_20: float
    """Early exploration: reward of the batches before 20% of the steps."""
    early_40: float
    """The same before 40%."""
    alpha: float
    """Mean over the steps; NaN for corrections that do not mix."""
    mismatch: float
    """D: mean absolute log-ratio, nats a token, mean over the steps."""
    token_ess: float
    """Effective share of the tokens under raw ratios, mean over the steps."""
    sequence_ess: float
    """The same of the sequences."""
    entropy_end: float
    """Nats a token, mean over the last 10% of the steps."""
    training_seconds: float
    """A step of training, mean over the steps."""
    rollout_seconds: float
    """Its rollouts, mean over the steps."""


def measure(record: Record) -> Measures:
    """The measures of a record."""
    steps, evaluations = record.steps, record.evaluations
    p, q = _numbers(evaluations["p"]), _numbers(evaluations["q"])
    last = steps["step"][-1] or 0.0

    def column(name: str) -> Sequence[float | None]:
        return steps.get(name, ())

    def before(name: str, share: float) -> float:
        first = (share - WINDOW) * last
        pairs = zip(steps["step"], column(name), strict=False)
        return _mean(value for step, value in pairs if step is not None and first < step <= share * last)

    return Measures(
        p_late=_mean(p[-LATE:]),
        q_late=_mean(q[-LATE:]),
        p_end=p[-1] if p else math.nan,
        q_end=q[-1] if q else math.nan,
        p_fall=worst_fall(p),
        q_fall=worst_fall(q),
        early_20=before("reward_mean", EARLY[0]),
        early_40=before("reward_mean", EARLY[1]),
        alpha=_mean(column("alpha")),
        mismatch=_mean(column("log_ratio_abs_mean")),
        token_ess=_mean(column("ess_ratio_raw")),
        sequence_ess=_mean(column("sequence_ess_ratio_raw")),
        entropy_end=before("entropy", 1.0),
        training_seconds=_mean(column("training_seconds")),
        rollout_seconds=_mean(column("rollout_seconds")),
    )


def worst_fall(values: Sequence[float]) -> float:
    """The largest difference from a value to a later one below it; 0 where none falls, NaN of no values."""
    return max((peak - value for peak, value in zip(accumulate(values, max), values, strict=True)), default=math.nan)


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float:
    numbers = _numbers(values)
    return fmean(numbers) if numbers else math.nan
