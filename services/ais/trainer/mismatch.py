"""The mismatch of one batch in more detail than its line in `steps.jsonl`: distributions, and who sampled what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ais_core.diagnostics import LagDiagnostics

LOG_RATIO_BOUNDS = (-4.0, -1.0, -0.3, -0.1, -0.03, -0.01, -0.001, 0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 4.0)
"""Nats."""
WEIGHT_BOUNDS = (0.0, 0.1, 0.25, 0.5, 0.8, 0.9, 0.95, 0.99, 1.01, 1.05, 1.1, 1.25, 2.0, 4.0, 10.0)


@dataclass(frozen=True)
class Counts:
    """Tokens of one batch by the value of something."""

    counts: tuple[float, ...]
    """Up to each bound, and beyond the last one."""
    total: float
    """Sum of the values."""

    def by_bound(self, bounds: tuple[float, ...]) -> dict[str, int]:
        """The counts by their upper bounds as text, the last `+Inf`."""
        names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
        return {name: int(count) for name, count in zip(names, self.counts, strict=True)}


@dataclass(frozen=True)
class ReplicaMismatch:
    """The tokens of one replica, of whatever versions."""

    tokens: int
    log_ratio_abs_mean: float
    """Nats."""
    ess_ratio: float
    """Effective sample size of their raw ratios, as a share of them."""


@dataclass(frozen=True)
class Mismatch:
    """What `ais.trainer.record.StepFigures` has no room for."""

    kept_share: float | None
    """Share of the tokens that rejections leave in."""
    capped_share: float | None
    """Share of the tokens whose weight is at the cap."""
    log_ratios: Counts
    raw_weights: Counts
    """The tokens' importance ratios, in which an exponent is at most `ais_core.settings.EXPONENT_LIMIT`."""
    applied_weights: Counts
    """What multiplied the tokens' advantages."""
    by_lag: tuple[LagDiagnostics, ...]
    by_replica: Mapping[tuple[str, str], ReplicaMismatch]
    """By the replica's name and its precision."""
    by_token: Mapping[int, tuple[float, ...]]
    """Log-ratios of the first tokens of a few responses, nats, by the number of the response in the batch."""
