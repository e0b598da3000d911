"""The mixing coefficient: how much of the importance-weighted gradient to take, from three diagnostics of the batch.

    g = (1 - alpha) g_uncorrected + alpha g_weighted,      effective weight h = 1 - alpha + alpha w

The family and the three diagnostics are those of Adaptive Importance Sampling (arXiv 2605.13907): weight reliability,
divergence severity, variance amplification. The paper's formula that combines them was not available to us; the rules
here are ours. docs/algorithm.md derives them. All are multiplied by alpha_max and by the guard.

    severity       S = D^2 / (D^2 + D0^2)                       D = mean |log r| per token, D0 = severity_scale
    reliability    R = min(1, k / (sigma + k (1 - mu)))         mu, sigma of the truncated weights,
                                                                k = sqrt(1 / effective_sample_floor - 1)
    amplification  A = 1 / (1 + n0 (1 + V^2) / N)               V = CV of the raw weights, N sequences,
                                                                n0 = amplification_batch
    guard          G = clip(2 - D / mismatch_limit, 0, 1)       for beyond it the clamped exponent makes V a constant

R is the largest alpha for which h keeps ESS(h) / N at the floor: with alpha' its solution,
alpha' sigma = k (1 - alpha' + alpha' mu). A is the James-Stein shrinkage of the weighted gradient towards the
uncorrected one.

The other rules are those that `plateau` was chosen from, for comparison. With rho the ESS ratio of the truncated
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
severity_reliability. A schedule over steps is `constant` with the step's own alpha_max: a correction holds settings
only, and its state passes to the next.

Reliability and amplification are kept on different weights, truncated and raw: on the same weights they would be one
number, because ESS / N = 1 / (1 + CV^2).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ais_core.diagnostics import Moments, ladder_at, ladder_rows
from ais_core.diagnostics.sums import Sums
from ais_core.levels import RUNGS, WHOLE
from ais_core.plan import MixingTerms
from ais_core.settings import MixingSettings


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What a rule sees of a batch."""

    sequences: float
    mean_abs_log_ratio: float
    """D, nats per token."""
    truncated: Moments
    """Of the truncated weights, at the level in force."""
    raw: Moments
    """Of the raw weights, at the same level."""
    sequence_abs_log_ratio: float = 0.0
    """Mean |log w| of whole sequences, nats."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The outcome of a rule."""

    alpha: float
    rung: float
    terms: MixingTerms
    effective_sample_ratio: float
    """Of h, on the batch measured."""
    trusted: bool


def mix(sums: Sums, settings: MixingSettings, adaptive: bool) -> Mixture:
    """alpha from the sums of a batch, and, when the level is adaptive, the rung its weights stand on.

    A batch without tokens gives alpha 0.
    """
    sequences, _, tokens, _, _ = sums.values("batch")
    rows = [[value / max(tokens, 1.0) for value in row] for row in ladder_rows(sums.values("ladder"))]
    rung = choose_rung([Moments(row[2], row[3]).ess_ratio for row in rows], settings.effective_sample_floor)
    excess, square_excess, weight, square_weight, _ = ladder_at(rows, rung) if adaptive else rows[0]
    mismatch = Mismatch(
        sequences=sequences,
        mean_abs_log_ratio=sums.values("token")[1] / max(tokens, 1.0),
        truncated=Moments(weight, square_weight),
        raw=Moments.of_excess(1.0, excess, square_excess),
        sequence_abs_log_ratio=sums.values("sequence")[1] / max(sequences, 1.0),
    )
    if tokens == 0:
        return Mixture(0.0, WHOLE, MixingTerms(0.0, 1.0, 0.0, 1.0), math.nan, trusted=True)
    terms = MixingTerms(
        severity=severity(mismatch, settings),
        reliability=reliability(mismatch, settings),
        amplification=amplification(mismatch, settings),
        guard=guard(mismatch, settings),
    )
    alpha = settings.alpha_max * terms.guard * RULES[settings.rule](mismatch, terms, settings)
    return Mixture(
        alpha=alpha,
        rung=rung,
        terms=terms,
        effective_sample_ratio=mixed_moments(mismatch.truncated, alpha).ess_ratio,
        trusted=mismatch.mean_abs_log_ratio <= settings.mismatch_limit,
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
    """A: trust in the raw weights; (1 + V^2) / N is one over their effective number of sequences."""
    effective = mismatch.sequences * mismatch.raw.ess_ratio
    return effective / (effective + settings.amplification_batch) if effective > 0 else 0.0


def guard(mismatch: Mismatch, settings: MixingSettings) -> float:
    """G: closes the hole of reliability at absurd mismatch, where truncated weights are 0 or cap and look reliable."""
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
    """part / (part + rest), 0 of nothing."""
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

    The first rung that falls under the floor is found from below, and the rung between it and the one before is
    interpolated in the logarithm of the ESS ratio: the choice moves smoothly with the mismatch, without a switch.
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


def mixed_moments(truncated: Moments, alpha: float) -> Moments:
    """Mean and second moment of h = 1 - alpha + alpha w."""
    rest = 1.0 - alpha
    return Moments(
        rest + alpha * truncated.mean,
        rest**2 + 2.0 * alpha * rest * truncated.mean + alpha**2 * truncated.square,
    )
