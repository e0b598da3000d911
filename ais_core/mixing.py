"""Chooses the mixing coefficient: how much of the importance-weighted gradient to take, from three diagnostics.

    g = (1 - alpha) g_uncorrected + alpha g_weighted,      effective weight h = 1 - alpha + alpha w

The family and the three diagnostics are those of Adaptive Importance Sampling (arXiv 2605.13907): weight reliability,
divergence severity, variance amplification. The paper's formula that combines them was not available to us; the rules
here are ours. docs/algorithm.md derives them. Each rule is multiplied by alpha_max and by the guard.

    severity       S = D^2 / (D^2 + D0^2)                       D = mean |log r| per token, D0 = severity_scale
    reliability    R = min(1, k / (sigma + k (1 - mu)))         mu, sigma of the truncated weights,
                                                                k = sqrt(1 / effective_sample_floor - 1)
    amplification  A = (1 - L) (N_eff - 1) / (N_eff - 1 + n0)   N_eff = effective number of sequences under the raw
                                                                weights, L = share of the tokens whose raw weight is
                                                                beyond the exponent limit, n0 = amplification_batch
    guard          G = clip(2 - D / mismatch_limit, 0, 1)       beyond it ratios say nothing

R is the largest alpha for which h keeps ESS(h) / N at the floor: with alpha' its solution,
alpha' sigma = k (1 - alpha' + alpha' mu). A is the James-Stein shrinkage of the weighted gradient towards the
uncorrected one. N_eff counts sequences by their tokens (Kish) and is bounded from below where weights lie beyond the
exponent limit. A batch that one sequence carries has N_eff = 1 and A = 0, and so has a batch whose weights are all
beyond the limit. V below is the CV of the raw weights over tokens, bounded in the same way.

`handover` takes alpha from the same rules, and what it fades to is not the uncorrected gradient but token ratios:

    h = 1 - s + s [(1 - alpha) min(r, C) + alpha min(w, C)],    s = G min(1 - uncorrected_share, R of what is in [ ])

Its alpha is multiplied by the mean of min(w, C), at most 1: that is 1 before truncation, and what is lost of it would
be a smaller step. R is the largest s that keeps the floor, for the reason below, so the floor holds whatever alpha is.

The other rules are there for comparison: `plateau` was chosen from among them. With rho the ESS ratio of the truncated
weights, rho0 = effective_sample_floor, V0 = variation_scale, l = noise_weight, and L = mean |log w| of sequences:

    constant                               1
    effective_sample                       R
    severity, amplification                S, A
    severity_effective_sample              S R
    severity_effective_sample_variation    S R / (1 + (V / V0)^2)
    severity_reliability                   S rho / (rho + l V)
    product                                rho (1 - exp(-D / D0)) / (1 + V / V0)
    bias_noise                             S D / (D + l V / sqrt(rho))
    shrinkage                              rho L^2 / (L^2 + l V^2)
    alarm                                  max of (1 - rho) / (1 - rho0), D / D0 and V / V0, at most 1
    capped_alarm                           min(R, max(D / D0, V / V0))
    capped_smooth_alarm                    min(R, 1 - exp(-D / D0 - V / V0))
    capped_severity_alarm                  min(R, D / D0)

Only rules of at most R keep the floor: not constant, severity, amplification, product, bias_noise, shrinkage, alarm and
severity_reliability. With rejections or `uncorrected_bound` the floor is an estimate: R then sees other weights than
those applied. A schedule over steps is `constant` with the step's own alpha_max: a correction holds settings only, and
its state passes to the next.

Reliability looks at the truncated weights and amplification at the raw ones. On the same weights they would be one
number, because ESS / N = 1 / (1 + CV^2).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ais_core.diagnostics import Moments
from ais_core.diagnostics.ladder import at, log_weights, rungs
from ais_core.diagnostics.sums import Sums
from ais_core.levels import RUNGS, WHOLE
from ais_core.plan import Effect, MixingTerms
from ais_core.settings import MixingSettings


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The statistics of a batch that a rule decides from."""

    effective_sequences: float
    """Effective number of sequences under the raw weights, at the level in force."""
    mean_abs_log_ratio: float
    """D, nats per token."""
    truncated: Moments
    """Moments of the truncated weights, at the level in force."""
    raw: Moments
    """Moments of the raw weights, at the same level."""
    sequence_abs_log_ratio: float = 0.0
    """Mean |log w| of whole sequences, nats."""
    limited_share: float = 0.0
    """Share of the tokens whose raw weight lies beyond the exponent limit."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The decision of a rule."""

    alpha: float
    rung: float
    corrected: float
    """`handover`'s s; 1 for `ais`."""
    terms: MixingTerms
    effective_sample_ratio: float
    """Effective sample size of h on the batch measured, as a share of the tokens."""


def mix(sums: Sums, settings: MixingSettings, adaptive: bool, handover: bool = False) -> Mixture:
    """alpha from the sums of a batch, and, when the level is adaptive, the rung its weights stand on.

    With `handover` the uncorrected branch is replaced by token ratios, and a share of all is left uncorrected.

    A batch without tokens gives alpha 0.
    """
    sequences, _, tokens, kept, _ = sums.values("batch")
    if tokens == 0:
        return Mixture(0.0, WHOLE, 1.0, MixingTerms(0.0, 1.0, 0.0, 1.0), math.nan)
    rows = rungs(sums)
    rung = choose_rung([row.moments(tokens).ess_ratio for row in rows], settings.effective_sample_floor)
    weights = at(rows, rung) if adaptive else rows[0]
    mismatch = Mismatch(
        effective_sequences=weights.effective_sequences,
        mean_abs_log_ratio=sums.values("token")[1] / tokens,
        truncated=weights.moments(tokens),
        raw=weights.raw_moments(tokens),
        sequence_abs_log_ratio=sums.values("sequence")[1] / sequences,
        limited_share=(weights.low + weights.high) / tokens,
    )
    terms = MixingTerms(
        severity=severity(mismatch, settings),
        reliability=reliability(mismatch, settings),
        amplification=amplification(mismatch, settings),
        guard=guard(mismatch, settings),
    )
    alpha = settings.alpha_max * terms.guard * RULES[settings.rule](mismatch, terms, settings)
    corrected, weighted = 1.0, alpha
    if handover:
        alpha *= min(mismatch.truncated.mean, 1.0)
        both = replace(mismatch, truncated=at(rows, 1.0 - alpha).moments(tokens))
        corrected = terms.guard * min(1.0 - settings.uncorrected_share, reliability(both, settings))
        mismatch, weighted = both, corrected
    ess_ratio = mixed_moments(mismatch.truncated, weighted, kept / tokens).ess_ratio
    return Mixture(alpha, rung, corrected, terms, ess_ratio)


def effect(sums: Sums, weighted: float, rung: float) -> Effect | None:
    """The effect of the weights h = 1 - weighted + weighted * w on the batch of these sums; None without tokens.

    `weighted` is alpha, with w the weight at `rung`; of a hand-over, the corrected part, with w between the sequences'
    weight (row 0) and the tokens' (row 1).
    """
    _, _, tokens, kept, _ = sums.values("batch")
    if tokens == 0:
        return None
    truncated = at(rungs(sums), rung).moments(tokens)
    mixed = mixed_moments(truncated, weighted, kept / tokens)
    response = 0.0
    if weighted > 0.0:
        for log_weight, count in log_weights(sums, rung):
            response += count * weighted / (weighted + (1.0 - weighted) * math.exp(-log_weight))
    return Effect(
        mean_weight=mixed.mean,
        share=weighted * truncated.mean / mixed.mean if mixed.mean > 0.0 else 0.0,
        slope=response / kept if kept > 0.0 else 0.0,
        effective_sample_ratio=mixed.ess_ratio,
    )


def severity(mismatch: Mismatch, settings: MixingSettings) -> float:
    """S: 0 for identical policies, one half at D = severity_scale, towards 1 beyond; flat at both ends."""
    square = mismatch.mean_abs_log_ratio**2
    return square / (square + settings.severity_scale**2)


def reliability(mismatch: Mismatch, settings: MixingSettings) -> float:
    """R: the largest alpha in [0, 1] for which h = 1 - alpha + alpha w has ESS / N of at least the floor."""
    k = math.sqrt(1.0 / settings.effective_sample_floor - 1.0)
    loss = math.sqrt(mismatch.truncated.variance) + k * (1.0 - mismatch.truncated.mean)
    return 1.0 if loss <= k else k / loss


def amplification(mismatch: Mismatch, settings: MixingSettings) -> float:
    """A: trust in the raw weights, from 0 where one sequence carries the batch, or no weight is evidence, towards 1."""
    evidence = 1.0 - mismatch.limited_share
    return evidence * _share(mismatch.effective_sequences - 1.0, settings.amplification_batch)


def guard(mismatch: Mismatch, settings: MixingSettings) -> float:
    """G: 1 up to the mismatch limit, 0 from twice the limit on, where truncated weights are 0 or at the cap."""
    return min(max(2.0 - mismatch.mean_abs_log_ratio / settings.mismatch_limit, 0.0), 1.0)


def _severity_effective_sample_variation(mismatch: Mismatch, terms: MixingTerms, settings: MixingSettings) -> float:
    return terms.severity * terms.reliability / (1.0 + (mismatch.raw.cv / settings.variation_scale) ** 2)


def _severity_reliability(mismatch: Mismatch, terms: MixingTerms, settings: MixingSettings) -> float:
    ratio = mismatch.truncated.ess_ratio
    return terms.severity * _share(ratio, settings.noise_weight * mismatch.raw.cv)


def _product(mismatch: Mismatch, _: MixingTerms, settings: MixingSettings) -> float:
    divergence = -math.expm1(-mismatch.mean_abs_log_ratio / settings.severity_scale)
    return mismatch.truncated.ess_ratio * divergence / (1.0 + mismatch.raw.cv / settings.variation_scale)


def _bias_noise(mismatch: Mismatch, terms: MixingTerms, settings: MixingSettings) -> float:
    ratio = mismatch.truncated.ess_ratio
    noise = settings.noise_weight * mismatch.raw.cv / math.sqrt(ratio) if ratio > 0 else math.inf
    return terms.severity * _share(mismatch.mean_abs_log_ratio, noise)


def _shrinkage(mismatch: Mismatch, _: MixingTerms, settings: MixingSettings) -> float:
    square = mismatch.sequence_abs_log_ratio**2
    return mismatch.truncated.ess_ratio * _share(square, settings.noise_weight * mismatch.raw.cv**2)


def _alarm(mismatch: Mismatch, _: MixingTerms, settings: MixingSettings) -> float:
    unreliable = (1.0 - mismatch.truncated.ess_ratio) / (1.0 - settings.effective_sample_floor)
    return min(max(unreliable, *_alarms(mismatch, settings)), 1.0)


def _alarms(mismatch: Mismatch, settings: MixingSettings) -> tuple[float, float]:
    """D / D0 and V / V0."""
    return (
        mismatch.mean_abs_log_ratio / settings.severity_scale,
        mismatch.raw.cv / settings.variation_scale,
    )


def _share(part: float, rest: float) -> float:
    """part / (part + rest); 0 when there is no part."""
    return part / (part + rest) if part > 0.0 else 0.0


RULES: dict[str, Callable[[Mismatch, MixingTerms, MixingSettings], float]] = {
    "plateau": lambda _, terms, __: terms.severity * terms.reliability * terms.amplification,
    "constant": lambda *_: 1.0,
    "effective_sample": lambda _, terms, __: terms.reliability,
    "severity": lambda _, terms, __: terms.severity,
    "amplification": lambda _, terms, __: terms.amplification,
    "severity_effective_sample": lambda _, terms, __: terms.severity * terms.reliability,
    "severity_effective_sample_variation": _severity_effective_sample_variation,
    "severity_reliability": _severity_reliability,
    "product": _product,
    "bias_noise": _bias_noise,
    "shrinkage": _shrinkage,
    "alarm": _alarm,
    "capped_alarm": lambda m, terms, settings: min(terms.reliability, max(_alarms(m, settings))),
    "capped_smooth_alarm": lambda m, terms, settings: min(terms.reliability, -math.expm1(-sum(_alarms(m, settings)))),
    "capped_severity_alarm": lambda m, terms, settings: min(terms.reliability, _alarms(m, settings)[0]),
}
"""alpha / alpha_max of each rule, before the guard; the formulas are above."""


def choose_rung(ess_ratios: list[float], floor: float) -> float:
    """The highest real-valued rung whose truncated weights keep the floor.

    From below, this finds the first rung that falls under the floor, and interpolates between it and the one before in
    the logarithm of the ESS ratio. The choice therefore moves smoothly with the mismatch.
    """
    for rung, ratio in enumerate(ess_ratios):
        if not ratio >= floor:
            if rung == 0:
                return 0.0
            before = math.log(ess_ratios[rung - 1] / floor)
            if before <= 0.0 or not ratio > 0.0:
                return rung - 1.0
            return rung - 1.0 + before / (before + math.log(floor / ratio))
    return float(RUNGS - 1)


def mixed_moments(truncated: Moments, alpha: float, kept: float = 1.0) -> Moments:
    """Mean and second moment of h = 1 - alpha + alpha w, where a share `kept` of the tokens is left in and the others
    have h = 0. `truncated` has w = 0 for those."""
    rest = 1.0 - alpha
    return Moments(
        kept * rest + alpha * truncated.mean,
        kept * rest**2 + 2.0 * alpha * rest * truncated.mean + alpha**2 * truncated.square,
    )
