"""Adds what each chunk of a batch contributes to the sums."""

import math

import torch
from torch import Tensor

from ais_core.diagnostics.histogram import CODES, FINE_BINS, LOG_BINS, codes, fine_magnitudes, fold, log_bins
from ais_core.diagnostics.sums import LADDER, LAGS, Sums
from ais_core.levels import RUNGS, Levels, Units
from ais_core.ratios import Chunk, exponential
from ais_core.rejections import offending
from ais_core.settings import EXPONENT_LIMIT, WEIGHTED, CorrectionSettings

TINY = -4.0
"""Where every log-weight is below this, float32 sums of ratio - 1 have lost the digits of the ratios themselves."""


def add(
    sums: Sums, chunk: Chunk, settings: CorrectionSettings, keep: Tensor | None, version_lag: Tensor | None
) -> None:
    """Adds counts, tokens and ladder of a chunk.

    Args:
        keep: (tokens,) bool of the tokens that rejections leave in, or None for all.
        version_lag: (tokens,) int64, or None.
    """
    logs = chunk.log_ratio
    tokens = logs.numel()
    batch = sums.section("batch")
    empty = chunk.sizes.count(0)
    batch[:4] += batch.new_tensor((len(chunk.sizes) - empty, empty, tokens, tokens if keep is None else 0))
    if tokens == 0:
        return
    if keep is not None:
        batch[3] += keep.sum()
    excess = _excess(logs)
    moments = _token_moments(chunk, excess)
    sums.section("token").add_(moments[1:])
    sums.section("token_histogram").add_(fold(torch.bincount(codes(logs), minlength=CODES)))
    if version_lag is not None:
        _add_lags(sums, chunk, excess, moments, version_lag)
    _add_ladder(sums, chunk, settings, keep, moments)


def add_sequences(sums: Sums, whole: Tensor) -> None:
    """Adds the log-ratios of whole sequences (occupied sequences,) float64, of a batch or a part of it."""
    excess = _excess(whole)
    raw = _raw_sums(whole)
    sums.section("sequence").add_(torch.cat([_plain_moments(whole, excess)[1:], raw]))
    places = codes(whole.float())
    sums.section("sequence_histogram").add_(fold(torch.bincount(places, minlength=CODES)))
    sums.section("sequence_histogram_sum").add_(fold(torch.bincount(places, whole, CODES)))


def add_offending(sums: Sums, logs: Tensor, advantages: Tensor) -> None:
    """Adds number and squared log-ratio, by magnitude, of the tokens that the update would push further off-policy."""
    pushed = offending(logs, advantages).double()
    places = fine_magnitudes(logs)
    counts = torch.bincount(places, pushed, FINE_BINS)
    squares = torch.bincount(places, pushed * logs.square(), FINE_BINS)
    sums.section("offending").add_(torch.cat([counts, squares]))


def unit_weights(units: Units, settings: CorrectionSettings) -> Tensor:
    """(units,) the method's weight before mixing and rejections.

    Truncated at the cap; for `mis` and `icepop`, raw inside the bounds and 0 outside; 1 for methods that only reject.
    """
    if settings.method not in WEIGHTED:
        return torch.ones_like(units.raw)
    if settings.method not in ("mis", "icepop"):
        return exponential(units.truncated).clamp_(max=settings.cap)
    lower, upper = settings.bounds
    raw = exponential(units.raw)
    return raw * ((raw >= lower) & (raw <= upper))


def _add_ladder(sums: Sums, chunk: Chunk, settings: CorrectionSettings, keep: Tensor | None, moments: Tensor) -> None:
    """Adds the weights at the settings' level, or at every rung."""
    levels = Levels(chunk, settings)
    ladder, log_weight = sums.section("ladder").view(RUNGS, -1), sums.section("log_weight").view(RUNGS, -1)
    if settings.weight_level == "adaptive":
        tokens = levels.tokens()
        rows, logs = _token_row(chunk, tokens, settings, keep, moments), _log_weights(tokens, [], settings, keep)
        if levels.highest:
            units, counts = levels.ladder()
            rows = torch.cat([rows, _rows(units, counts, settings, keep)])
            logs = torch.cat([logs, _log_weights(units, counts, settings, keep)])
        # Rungs above the highest are the same as it.
        missing = RUNGS - len(rows)
        ladder.add_(torch.cat([rows, rows[-1:].expand(missing, -1)]))
        log_weight.add_(torch.cat([logs, logs[-1:].expand(missing, -1)]))
        return
    if settings.weight_level == "token" or settings.method not in WEIGHTED:
        units = levels.tokens()
        ladder[:1] += _token_row(chunk, units, settings, keep, moments)
    else:
        units = levels.fixed()
        ladder[:1] += _rows(units, [], settings, keep)
    if settings.method == "ais":
        log_weight[:1] += _log_weights(units, [], settings, keep)


def _add_lags(sums: Sums, chunk: Chunk, excess: Tensor, moments: Tensor, lag: Tensor) -> None:
    """Adds the token moments by version lag (tokens,)."""
    by_lag = sums.section("lag").view(LAGS, -1)
    lowest, highest = (min(int(value), LAGS - 1) for value in torch.aminmax(lag))
    if lowest == highest:
        by_lag[lowest] += moments
        return
    logs = chunk.log_ratio
    inside = logs.double().exp_() * (logs.abs() <= EXPONENT_LIMIT)
    columns = (
        *(torch.ones_like(logs), logs, logs.abs(), logs.square(), excess, excess.square()),
        *(inside, inside.square(), logs < -EXPONENT_LIMIT, logs > EXPONENT_LIMIT),
    )
    place = lag.clamp(max=LAGS - 1)
    by_lag.add_(torch.stack([torch.bincount(place, values.double(), LAGS) for values in columns], 1))


def _token_moments(chunk: Chunk, excess: Tensor) -> Tensor:
    """(10,) float64: how many tokens, and their `MOMENTS`."""
    plain = _plain_moments(chunk.log_ratio, excess)
    if chunk.smallest >= -EXPONENT_LIMIT and TINY <= chunk.largest <= EXPONENT_LIMIT:
        return torch.cat([plain, _raw_of_excess(plain[0], plain[4], plain[5])])
    return torch.cat([plain, _raw_sums(chunk.log_ratio.double())])


def _raw_of_excess(count: Tensor, excess: Tensor, square_excess: Tensor) -> Tensor:
    """(4,) `RAW` from sums of w - 1 and (w - 1)^2, where no weight is beyond the exponent limit."""
    none = count.new_zeros(())
    return torch.stack([count + excess, count + 2.0 * excess + square_excess, none, none])


def _raw_sums(log_weights: Tensor) -> Tensor:
    """(4,) float64: `RAW` of log-weights (n,) float64."""
    weights = log_weights.clamp(max=EXPONENT_LIMIT).exp_() * (log_weights.abs() <= EXPONENT_LIMIT)
    low, high = (log_weights < -EXPONENT_LIMIT).sum(), (log_weights > EXPONENT_LIMIT).sum()
    return torch.stack([weights.sum(), weights.dot(weights), low.double(), high.double()])


def _plain_moments(logs: Tensor, excess: Tensor) -> Tensor:
    """(6,) float64: how many, and sums of the log-ratio, its magnitude and square, of ratio - 1 and its square."""
    count = logs.new_full((1,), logs.numel(), dtype=torch.float64)
    sums = torch.stack([logs.sum(), logs.abs().sum(), logs.dot(logs), excess.sum(), excess.dot(excess)])
    return torch.cat([count, sums])


def _token_row(
    chunk: Chunk, units: Units, settings: CorrectionSettings, keep: Tensor | None, moments: Tensor
) -> Tensor:
    """(1, 8) the row of the ladder where every token is a unit, as in `_rows`, from what is known of the tokens."""
    count, raw = moments[0], moments[6:]
    if isinstance(units.lengths, int):
        sequence_square = raw[1] * units.lengths
    else:
        weights = exponential(chunk.log_ratio) * (chunk.log_ratio.abs() <= EXPONENT_LIMIT)
        sequence_square = weights.square_().dot(units.lengths.float()).double()
    if keep is None and chunk.largest < math.log(settings.cap) and settings.method in ("tis", "vcpo", "ais"):
        # No weight is truncated: w = 1 + excess.
        _, _, _, _, total, square = moments[:6]
        applied = [total + count, square + 2.0 * total + count, count.new_zeros(())]
    else:
        weight = unit_weights(units, settings)
        capped = (units.truncated >= math.log(settings.cap)).sum().double()
        weight = weight if keep is None else weight * keep
        applied = [weight.sum().double(), weight.dot(weight).double(), capped]
    return torch.cat([raw, torch.stack([sequence_square, *applied])])[None]


def _rows(units: Units, counts: list[int], settings: CorrectionSettings, keep: Tensor | None) -> Tensor:
    """Rows of the ladder (rows, 8) float64, summed over tokens.

    The first counts[0] units make the first row, and so on; no counts stand for a single row.
    """
    counts = counts or [units.raw.numel()]
    columns = units.raw.new_empty(len(LADDER), units.raw.numel())
    raw, square, low, high, sequence_square, weight, square_weight, capped = columns
    torch.exp(units.raw.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT), out=raw)
    if units.truncated is units.raw and settings.method in ("tis", "vcpo", "ais"):
        torch.clamp(raw, max=settings.cap, out=weight)
    else:
        weight.copy_(unit_weights(units, settings))
    low.copy_(units.raw < -EXPONENT_LIMIT)
    high.copy_(units.raw > EXPONENT_LIMIT)
    raw.mul_(1.0 - low - high)
    torch.square(raw, out=square)
    torch.mul(square, units.lengths, out=sequence_square)
    torch.square(weight, out=square_weight)
    capped.copy_(units.truncated >= math.log(settings.cap))
    if units.sizes is not None:
        columns.mul_(units.sizes)
    if keep is not None:
        # Rejections leave their mark on the applied weight alone.
        columns[5:7] *= _kept_share(units, counts, keep)
    return torch.stack([part.sum(1, dtype=torch.float64) for part in torch.split(columns, counts, 1)])


def _log_weights(units: Units, counts: list[int], settings: CorrectionSettings, keep: Tensor | None) -> Tensor:
    """(rows, LOG_BINS) float64: tokens by the logarithm of their truncated weight, if it responds to their own ratio.

    Weights at the cap and rejected tokens are left out; a token that enters its weight by a power counts that much.
    """
    counts = counts or [units.raw.numel()]
    tokens = (units.truncated < math.log(settings.cap)).double()
    if units.sizes is not None:
        tokens *= units.sizes
    if keep is not None:
        tokens *= _kept_share(units, counts, keep)
    places = log_bins(units.truncated)
    if len(counts) > 1:
        row = torch.arange(len(counts), device=places.device)
        row_of = row.repeat_interleave(torch.tensor(counts, device=places.device), output_size=places.numel())
        places += row_of * LOG_BINS
    return torch.bincount(places, tokens * units.power, len(counts) * LOG_BINS).view(-1, LOG_BINS)


def _kept_share(units: Units, counts: list[int], keep: Tensor) -> Tensor:
    """(units,) the share of each unit's tokens that is kept; every row of the ladder covers all tokens once."""
    if units.sizes is None:
        return keep
    through = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
    ends = torch.cat([sizes.cumsum(0) for sizes in torch.split(units.sizes, counts)])
    return (through[ends] - through[ends - units.sizes]) / units.sizes


def _excess(log_weights: Tensor) -> Tensor:
    """exp - 1, with the clamped exponent, exact where the log-weight is small."""
    return log_weights.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).expm1_()
