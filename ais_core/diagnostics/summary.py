"""How far apart the policy that sampled and the policy that trains are, from the sums of a batch.

With r = proximal / behaviour on tokens sampled by behaviour, and w the product of r over a sequence:

    k1 = mean(-log r)                  estimates KL(behaviour || proximal), unbiased      Schulman, "Approximating KL
    k2 = mean((log r)^2 / 2)           low variance, small bias                           divergence" (2020)
    k3 = mean(r - 1 - log r)           unbiased and never negative
    chi-square = mean((r - 1)^2)       estimates chi^2(proximal || behaviour)
    ESS ratio = (sum w)^2 / (N sum w^2) = 1 / (1 + CV^2)                                  Kong (1992)
    perplexity ratio = exp(k1)         perplexity of the samples under proximal / under behaviour

At sequence level the same are taken of w, whose logarithm is that of a whole sequence: k1 is then in nats per sequence.
N is the number of tokens (or sequences) that count, never of padded ones, so an ESS ratio lies in (0, 1].
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ais_core.diagnostics.histogram import BINS, largest, quantile
from ais_core.diagnostics.sums import LAGS, Sums, check
from ais_core.diagnostics.tail import tail_index
from ais_core.settings import EXPONENT_LIMIT

SMALLEST_WEIGHT = math.exp(-EXPONENT_LIMIT)
"""No raw weight is smaller: its exponent is clamped."""


@dataclass(frozen=True, slots=True)
class LagDiagnostics:
    """The tokens of one version lag. Lag 0 isolates the rollout engine's own error from staleness."""

    lag: int
    """Policy versions between sampling and training; the last one stands for itself and all beyond."""
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
    """Read off the histogram: at most 25% above the true value."""
    k1: float
    k2: float
    k3: float
    """Nats per token."""
    chi_square: float
    perplexity_ratio: float
    token_cv: float
    """Coefficient of variation of the raw token ratios."""
    token_ess_ratio: float
    """Of the raw token ratios."""

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
    """Of the raw sequence ratios."""
    sequence_ess_ratio: float
    """Of the raw sequence ratios."""
    sequence_tail_index: float
    """Pareto k of the raw sequence ratios, see `ais_core.diagnostics.tail`. Above 0.7 importance weights at this level
    are unreliable; NaN for fewer than 25 sequences."""

    weight_mean: float
    """Of the weights of the correction after truncation and rejection, over tokens, before mixing; M2PO's mask is left
    out, for it is decided on the whole batch."""
    weight_cv: float
    weight_ess_ratio: float
    """The reliability diagnostic: ESS ratio of the truncated weights."""
    raw_weight_cv: float
    """The amplification diagnostic: CV of the same weights with nothing truncated."""
    truncated_share: float
    """Share of the tokens whose weight is at the cap."""

    by_lag: tuple[LagDiagnostics, ...]
    """Lags that occurred; empty when no version lag was given."""


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
    log_ratio, absolute, square, excess, square_excess = sums.values("token")
    s_log, s_absolute, s_square, s_excess, s_square_excess = sums.values("sequence")
    row = ladder_at(ladder_rows(sums.values("ladder")), rung)
    magnitudes = _unsigned(sums.values("token_histogram"))
    s_histogram = sums.values("sequence_histogram")
    s_magnitudes = _unsigned(s_histogram)
    token = Moments.of_excess(tokens, excess, square_excess)
    sequence = Moments.of_excess(sequences, s_excess, s_square_excess)
    raw = Moments.of_excess(tokens, row[0], row[1])
    weight = Moments(_ratio(row[2], tokens), _ratio(row[3], tokens))
    k1 = -_ratio(log_ratio, tokens)
    return Diagnostics(
        sequences=int(sequences),
        empty_sequences=int(empty),
        tokens=int(tokens),
        kept_share=_ratio(kept, tokens),
        non_finite_tokens=int(non_finite),
        mean_abs_log_ratio=_ratio(absolute, tokens),
        median_abs_log_ratio=quantile(magnitudes, 0.5),
        p99_abs_log_ratio=quantile(magnitudes, 0.99),
        max_abs_log_ratio=largest(magnitudes),
        k1=k1,
        k2=_ratio(square, tokens) / 2,
        k3=max(_ratio(excess - log_ratio, tokens), 0.0) if tokens else math.nan,
        chi_square=_ratio(square_excess, tokens),
        perplexity_ratio=math.exp(min(k1, 700.0)) if tokens else math.nan,
        token_cv=token.cv,
        token_ess_ratio=token.ess_ratio,
        sequence_mean_log_ratio=_ratio(s_log, sequences),
        sequence_log_ratio_sd=math.sqrt(max(_ratio(s_square, sequences) - _ratio(s_log, sequences) ** 2, 0.0))
        if sequences
        else math.nan,
        sequence_mean_abs_log_ratio=_ratio(s_absolute, sequences),
        sequence_median_abs_log_ratio=quantile(s_magnitudes, 0.5),
        sequence_p99_abs_log_ratio=quantile(s_magnitudes, 0.99),
        sequence_max_abs_log_ratio=largest(s_magnitudes),
        sequence_k1=-_ratio(s_log, sequences),
        sequence_k2=_ratio(s_square, sequences) / 2,
        sequence_k3=max(_ratio(s_excess - s_log, sequences), 0.0) if sequences else math.nan,
        sequence_chi_square=_ratio(s_square_excess, sequences),
        sequence_cv=sequence.cv,
        sequence_ess_ratio=sequence.ess_ratio,
        sequence_tail_index=tail_index(s_histogram, sums.values("sequence_histogram_sum")),
        weight_mean=weight.mean,
        weight_cv=weight.cv,
        weight_ess_ratio=weight.ess_ratio,
        raw_weight_cv=raw.cv,
        truncated_share=_ratio(row[4], tokens),
        by_lag=_by_lag(sums.values("lag")),
    )


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and second moment of weights."""

    mean: float
    square: float

    @classmethod
    def of_excess(cls, count: float, excess: float, square_excess: float) -> "Moments":
        """From the sums of w - 1 and (w - 1)^2 of raw weights.

        Where all weights are tiny, w - 1 has lost their digits: the mean is then at least the smallest weight there is,
        and the second moment at least its square.
        """
        shift = _ratio(excess, count)
        mean = max(1.0 + shift, SMALLEST_WEIGHT)
        return cls(mean, max(_ratio(square_excess, count) + 2.0 * shift + 1.0, mean**2))

    @property
    def variance(self) -> float:
        return max(self.square - self.mean**2, 0.0)

    @property
    def cv(self) -> float:
        """Standard deviation by mean; NaN when every weight is 0."""
        return math.sqrt(self.variance) / self.mean if self.mean > 0 else math.nan

    @property
    def ess_ratio(self) -> float:
        """Effective sample size by sample size, in (0, 1]; 0 when every weight is 0."""
        if math.isnan(self.square):
            return math.nan
        return min(self.mean**2 / self.square, 1.0) if self.square > 0 else 0.0


def ladder_rows(values: list[float]) -> list[list[float]]:
    """The ladder by rung: sums of excess, square_excess, weight, square_weight, truncated."""
    return [values[start : start + 5] for start in range(0, len(values), 5)]


def ladder_at(rows: list[list[float]], rung: float) -> list[float]:
    """The sums at a real-valued rung. Those of a mixture of two rungs' weights are exact but for the squares, which are
    bounded from above (convexity), so that the effective sample is never overstated."""
    lower = int(rung)
    upper = rows[min(lower + 1, len(rows) - 1)]
    return [low + (rung - lower) * (high - low) for low, high in zip(rows[lower], upper, strict=True)]


def _ratio(total: float, count: float) -> float:
    return total / count if count > 0 else math.nan


def _unsigned(histogram: list[float]) -> list[float]:
    """(BINS,) counts by magnitude of a histogram (2 * BINS,) by sign and magnitude."""
    return [left + right for left, right in zip(histogram[:BINS], histogram[BINS:], strict=True)]


def _by_lag(values: list[float]) -> tuple[LagDiagnostics, ...]:
    by_lag = []
    for lag in range(LAGS):
        tokens, log_ratio, absolute, _, excess, square_excess = values[lag * 6 : lag * 6 + 6]
        if tokens > 0:
            by_lag.append(
                LagDiagnostics(
                    lag=lag,
                    tokens=int(tokens),
                    mean_abs_log_ratio=absolute / tokens,
                    k1=-log_ratio / tokens,
                    k3=max((excess - log_ratio) / tokens, 0.0),
                    ess_ratio=Moments.of_excess(tokens, excess, square_excess).ess_ratio,
                )
            )
    return tuple(by_lag)
