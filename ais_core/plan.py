"""What is decided for a batch."""

from dataclasses import dataclass

from ais_core.diagnostics import Diagnostics


@dataclass(frozen=True, slots=True)
class MixingTerms:
    """The factors of the mixing coefficient, each in [0, 1]."""

    severity: float
    """From the mean |log ratio|: 0 when there is nothing to correct."""
    reliability: float
    """From the effective sample of the truncated weights: the largest alpha that keeps the floor."""
    amplification: float
    """From the coefficient of variation of the raw weights: 1 when they add no variance to speak of."""
    guard: float
    """1 below the mismatch limit, 0 above twice the limit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one batch is weighed. Only `Correction.plan` and `Correction.recall` make one."""

    alpha: float
    """The mixing coefficient: 0 is uncorrected, 1 fully weighted. 1 for corrections that do not mix."""
    rung: float
    """Real-valued rung of the ladder of blocks the weights stand on; used by level `adaptive` only."""
    second_moment_threshold: float
    """|log ratio| above which M2PO masks a token that pushes further off-policy; inf for the others."""
    trusted: bool
    """False when the mean |log ratio| is over the limit: the batch is better skipped, and somebody told."""
    terms: MixingTerms | None
    """How alpha came about; None for corrections that do not mix."""
    effective_sample_ratio: float
    """Effective sample size of the mixed weights h, as a share of the tokens, on the batch alpha was chosen from. A
    lower bound between two rungs, and an estimate with a bounded uncorrected branch or further rejections."""
    learning_rate_scale: float = 1.0
    """Multiply the learning rate by this (VCPO); 1 for the others."""
    diagnostics: Diagnostics | None = None
    """Of the batch measured; None in a plan recalled before its batch is measured."""
