"""What the rewards of a batch were made of, and what its groups cost beside the responses in them. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ais.contracts.trajectory import ScoredGroup


@dataclass(frozen=True)
class RewardFigures:
    """Figures of one batch's rewards, part of its line in `steps.jsonl`."""

    reward_components: dict[str, float]
    """Mean score of each named component, over the responses that it judged or should have judged."""
    judgements_failed: dict[str, int]
    """Judgements that failed, by reason; each left a score of 0."""
    redrawn_share: float
    """Share of the groups that took the place of one whose rewards were all equal."""
    redrawn_sequences: int
    """Responses that were thrown away for it."""


def reward_figures(groups: Sequence[ScoredGroup]) -> RewardFigures:
    """The figures of a batch of at least one group."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    failed: Counter[str] = Counter()
    for group in groups:
        for component in group.components:
            scores[component.name] += component.scores
            failed.update(failure.outcome for failure in component.failures)
    return RewardFigures(
        reward_components={name: sum(values) / len(values) for name, values in sorted(scores.items())},
        judgements_failed=dict(sorted(failed.items())),
        redrawn_share=sum(group.redraw > 0 for group in groups) / len(groups),
        redrawn_sequences=sum(group.redraw * len(group.trajectories) for group in groups),
    )
