"""Defines the plan of a batch: the decision, its effect on the gradient, and what gives concern."""

from dataclasses import dataclass
from typing import Literal

from ais_core.diagnostics import Diagnostics

Concern = Literal["mismatch_limit", "exponent_limit", "uncorrected", "rejected"]

CONCERNS: dict[Concern, str] = {
    "mismatch_limit": "the mean |log ratio| per token is over the limit: the ratios mean nothing, look for a fault in "
    "the rollout engine or in its weights",
    "exponent_limit": "most importance weights lie beyond the exponent limit and are no evidence: the answers are too "
    "long, or the policies too far apart, for weights at this level",
    "uncorrected": "the mismatch is severe and less than a tenth of the gradient is importance-weighted: training is "
    "practically uncorrected",
    "rejected": "masks leave out more than nine tenths of the batch: the bounds are too narrow for this mismatch, and "
    "what is left is too little to learn from",
}
"""Each concern in words for a person."""


@dataclass(frozen=True, slots=True)
class MixingTerms:
    """The factors of the mixing coefficient, each in [0, 1]."""

    severity: float
    """From the mean |log ratio|: 0 when there is nothing to correct."""
    reliability: float
    """From the effective sample of the truncated weights: the largest alpha that keeps the floor."""
    amplification: float
    """From the effective number of sequences under the raw weights: 0 when a single sequence carries the batch, or
    when no weight is evidence; 1 when the weights add no variance to speak of."""
    guard: float
    """1 below the mismatch limit, 0 above twice the limit."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of the weights h = 1 - alpha + alpha w on the gradient of the batch that was measured.

    Exact with rejections. With a bounded uncorrected branch (`uncorrected_bound`), between two rungs of level
    `adaptive`, and between the tokens and the sequences of `handover`, estimates.
    """

    mean_weight: float
    """Mean of h over tokens: the size of the step relative to an uncorrected one, whatever alpha says. With
    `self_normalised` it is the share of the tokens that rejections leave in."""
    share: float
    """The part of that mean which is importance-weighted, in [0, 1]: alpha m / (1 - alpha + alpha m), with m the mean
    of the truncated weights. Of `handover`, the part weighted by tokens or sequences."""
    slope: float
    """The response of log h to the token's own log-ratio, averaged over the tokens kept: the derivative
    alpha w / h, or 0 where w is at the cap. 1 corrects each token by its whole ratio, 0 does not look at it."""
    effective_sample_ratio: float
    """Effective sample size of h, as a share of the tokens. Weights that are all the same leave 1, so read it beside
    `share`: with a share near 0 it says that nothing is corrected, not that all is well."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision on how one batch is weighed. Only `Correction.plan` and `Correction.recall` make one."""

    alpha: float | None
    """The mixing coefficient: 0 is uncorrected, 1 fully weighted; of `handover`, 0 is weighted by tokens, 1 by
    sequences. None for corrections that do not mix."""
    rung: float
    """Real-valued rung of the ladder of blocks the weights stand on; used by level `adaptive` only."""
    second_moment_threshold: float
    """|log ratio| above which M2PO masks a token that pushes further off-policy; inf for the others."""
    trusted: bool
    """False when the mean |log ratio| of the batch is over the limit (`recall`: of the one that alpha was chosen from):
    the batch is better skipped, and somebody told."""
    concerns: tuple[Concern, ...]
    """The reasons for concern, if any. `CONCERNS` has each in words."""
    terms: MixingTerms | None
    """The factors of alpha; None for corrections that do not mix."""
    effective_sample_ratio: float
    """Effective sample size of the weights applied, as a share of the tokens, on the batch alpha was chosen from. A
    lower bound between two rungs, and an estimate with a bounded uncorrected branch."""
    corrected: float = 1.0
    """The part of a token's weight that `handover` corrects; 1 for the others."""
    learning_rate_scale: float = 1.0
    """Multiply the learning rate by this (VCPO); 1 for the others."""
    weight_scale: float = 1.0
    """Multiply every weight by this (`self_normalised`): 1 over the mean weight of the tokens that rejections leave; 1
    where most weights are beyond the exponent limit."""
    effect: Effect | None = None
    """The effect of the mixed weights on the batch measured; None for corrections that do not mix, for a batch without
    tokens, and in a plan recalled before its batch is measured."""
    diagnostics: Diagnostics | None = None
    """The diagnostics of the batch measured; None in a plan recalled before its batch is measured."""
