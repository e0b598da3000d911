"""Measures how far the policy that sampled and the policy that trains are apart, from the sums of a batch.

With r = proximal / behaviour on tokens sampled by behaviour, and w the product of r over a sequence:

    k1 = mean(-log r)                  estimates KL(behaviour || proximal), unbiased      Schulman, "Approximating KL
    k2 = mean((log r)^2 / 2)           low variance, small bias                           divergence" (2020)
    k3 = mean(r - 1 - log r)           unbiased and never negative
    chi-square = mean((r - 1)^2)       estimates chi^2(proximal || behaviour)
    ESS ratio = (sum w)^2 / (N sum w^2) = 1 / (1 + CV^2)                                  Kong (1992)
    perplexity ratio = exp(k1)         perplexity of the samples under proximal / under behaviour

The sequence metrics apply the same formulas to w, so that k1 is then in nats per sequence. N counts the tokens (or
sequences) that are there, never padding, so an ESS ratio lies in (0, 1].

The ESS ratios and CVs of raw weights are bounds (`Moments.of_raw`): weights beyond the exponent limit are no evidence,
and make a sample look worse, never better.

verl's metrics of these names differ in two definitions. Its chi-square is mean(r^2) - 1: it has the same expectation,
but a sample can make it negative. Its perplexity ratio is the mean over sequences of exp(k1 of the sequence); this one
weighs all tokens alike.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ais_core.diagnostics.histogram import BINS, largest, quantile
from ais_core.diagnostics.ladder import at, rungs
from ais_core.diagnostics.moments import Moments
from ais_core.diagnostics.sums import LAGS, MOMENTS, Sums, check
from ais_core.diagnostics.tail import tail_index


@dataclass(frozen=True, slots=True)
class LagDiagnostics:
    """The mismatch of the tokens of one version lag. Lag 0 isolates the rollout engine's own error from staleness."""

    lag: int
    """Policy versions between sampling and training; the last lag stands for itself and all beyond."""
    tokens: int
    mean_abs_log_ratio: float
    """Nats."""
    k1: float
    k3: float
    """Nats."""
    ess_ratio: float


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """The mismatch of one batch. NaN where nothing was measured (no tokens)."""

    sequences: int
    """Sequences with at least one token."""
    empty_sequences: int
    tokens: int
    kept_share: float
    """Share of the tokens that rejections leave in."""
    non_finite_tokens: int
    """Tokens left out because their log-ratio was not finite."""

    mean_abs_log_ratio: float
    """D, the severity diagnostic: nats per token."""
    median_abs_log_ratio: float
    p99_abs_log_ratio: float
    max_abs_log_ratio: float
    """Read off the histogram, which puts it at most 25% above the true value."""
    k1: float
    k2: float
    k3: float
    """Nats per token."""
    chi_square: float
    perplexity_ratio: float
    token_cv: float
    """Coefficient of variation of the raw token ratios."""
    token_ess_ratio: float
    """Effective sample of the raw token ratios, as a share of the tokens."""

    sequence_mean_log_ratio: float
    sequence_log_ratio_sd: float
    sequence_mean_abs_log_ratio: float
    """Nats per sequence."""
    sequence_median_abs_log_ratio: float
    sequence_p99_abs_log_ratio: float
    sequence_max_abs_log_ratio: float
    """Read off the histogram, as for tokens."""
    sequence_k1: float
    sequence_k2: float
    sequence_k3: float
    """Nats per sequence."""
    sequence_chi_square: float
    sequence_cv: float
    """Coefficient of variation of the raw sequence ratios."""
    sequence_ess_ratio: float
    """Effective sample of the raw sequence ratios, as a share of the sequences."""
    sequence_limited_share: float
    """Share of the sequences whose log-ratio lies beyond the exponent limit, where its ratio is no evidence."""
    sequence_tail_index: float
    """Pareto k of the raw sequence ratios, see `ais_core.diagnostics.tail`. Above 0.7 importance weights at this level
    are unreliable; NaN for fewer than 25 sequences."""

    weight_mean: float
    """Mean over tokens of the correction's weights after truncation and rejection, before mixing. M2PO's mask is left
    out, because the whole batch decides it."""
    weight_cv: float
    """Coefficient of variation of the same weights."""
    weight_ess_ratio: float
    """The reliability diagnostic: ESS ratio of the same weights."""
    raw_weight_cv: float
    """The amplification diagnostic: CV of the same weights with nothing truncated."""
    effective_sequences: float
    """The number of sequences that carry the batch under these raw weights: Kish's effective number, with sequences
    weighed by their tokens. At least 1."""
    truncated_share: float
    """Share of the tokens whose weight is at the cap."""
    limited_share: float
    """Share of the tokens whose raw weight lies beyond the exponent limit, where it is no evidence."""

    by_lag: tuple[LagDiagnostics, ...]
    """The lags that occurred; empty when no version lag was given."""


def summarize(flat: Tensor, rung: float = 0.0) -> Diagnostics:
    """The diagnostics of a batch.

    Args:
        flat: the batch's sums, added over microbatches and ranks.
        rung: with level `adaptive`, the real-valued rung the weights stand on (`Plan.rung`); other levels have one row
            in the ladder, 0.
    Raises:
        ShapeError: a tensor that `Correction.measure` did not make.
    """
    return describe(check(flat), rung)


def describe(sums: Sums, rung: float) -> Diagnostics:
    """The diagnostics of sums, as `summarize` gives them."""
    sequences, empty, tokens, kept, non_finite = sums.values("batch")
    token, sequence = _Part(tokens, sums.values("token")), _Part(sequences, sums.values("sequence"))
    weights = at(rungs(sums), rung)
    weight = weights.moments(tokens) if tokens else Moments(math.nan, math.nan)
    magnitudes = _unsigned(sums.values("token_histogram"))
    s_histogram = sums.values("sequence_histogram")
    s_magnitudes = _unsigned(s_histogram)
    return Diagnostics(
        sequences=int(sequences),
        empty_sequences=int(empty),
        tokens=int(tokens),
        kept_share=_ratio(kept, tokens),
        non_finite_tokens=int(non_finite),
        mean_abs_log_ratio=token.mean_abs,
        median_abs_log_ratio=quantile(magnitudes, 0.5),
        p99_abs_log_ratio=quantile(magnitudes, 0.99),
        max_abs_log_ratio=largest(magnitudes),
        k1=token.k1,
        k2=token.k2,
        k3=token.k3,
        chi_square=token.chi_square,
        perplexity_ratio=math.exp(min(token.k1, 700.0)) if tokens else math.nan,
        token_cv=token.raw.cv,
        token_ess_ratio=token.raw.ess_ratio,
        sequence_mean_log_ratio=-sequence.k1,
        sequence_log_ratio_sd=Moments(sequence.k1, 2.0 * sequence.k2).variance ** 0.5 if sequences else math.nan,
        sequence_mean_abs_log_ratio=sequence.mean_abs,
        sequence_median_abs_log_ratio=quantile(s_magnitudes, 0.5),
        sequence_p99_abs_log_ratio=quantile(s_magnitudes, 0.99),
        sequence_max_abs_log_ratio=largest(s_magnitudes),
        sequence_k1=sequence.k1,
        sequence_k2=sequence.k2,
        sequence_k3=sequence.k3,
        sequence_chi_square=sequence.chi_square,
        sequence_cv=sequence.raw.cv,
        sequence_ess_ratio=sequence.raw.ess_ratio,
        sequence_limited_share=sequence.limited_share,
        sequence_tail_index=tail_index(s_histogram, sums.values("sequence_histogram_sum")),
        weight_mean=weight.mean,
        weight_cv=weight.cv,
        weight_ess_ratio=weight.ess_ratio,
        raw_weight_cv=weights.raw_moments(tokens).cv,
        effective_sequences=weights.effective_sequences if tokens else math.nan,
        truncated_share=_ratio(weights.truncated, tokens),
        limited_share=_ratio(weights.low + weights.high, tokens),
        by_lag=_by_lag(sums.values("lag")),
    )


class _Part:
    """The metrics of log-ratios, of tokens or of sequences, from their sums (`sums.MOMENTS`)."""

    def __init__(self, count: float, values: list[float]) -> None:
        log_ratio, absolute, square, excess, square_excess, raw, square_raw, low, high = values
        self.k1 = -_ratio(log_ratio, count)
        self.k2 = _ratio(square, count) / 2
        self.k3 = max(_ratio(excess - log_ratio, count), 0.0) if count else math.nan
        self.mean_abs = _ratio(absolute, count)
        self.chi_square = _ratio(square_excess, count)
        self.raw = Moments.of_raw(count, raw, square_raw, high)
        self.limited_share = _ratio(low + high, count)


def _ratio(total: float, count: float) -> float:
    return total / count if count > 0 else math.nan


def _unsigned(histogram: list[float]) -> list[float]:
    """(BINS,) counts by magnitude of a histogram (2 * BINS,) by sign and magnitude."""
    return [left + right for left, right in zip(histogram[:BINS], histogram[BINS:], strict=True)]


def _by_lag(values: list[float]) -> tuple[LagDiagnostics, ...]:
    by_lag, width = [], 1 + len(MOMENTS)
    for lag in range(LAGS):
        tokens, *moments = values[lag * width : (lag + 1) * width]
        if tokens > 0:
            part = _Part(tokens, moments)
            by_lag.append(
                LagDiagnostics(
                    lag=lag,
                    tokens=int(tokens),
                    mean_abs_log_ratio=part.mean_abs,
                    k1=part.k1,
                    k3=part.k3,
                    ess_ratio=part.raw.ess_ratio,
                )
            )
    return tuple(by_lag)
