"""Measuring: what each chunk of a batch adds to the sums."""

import math

import torch
from torch import Tensor

from ais_core.diagnostics.histogram import BINS, CODES, codes, fold, magnitudes
from ais_core.diagnostics.sums import LAGS, Sums
from ais_core.levels import RUNGS, Levels, Units
from ais_core.ratios import Chunk, exponential
from ais_core.rejections import offending
from ais_core.settings import EXPONENT_LIMIT, WEIGHTED, CorrectionSettings


def add(
    sums: Sums, chunk: Chunk, settings: CorrectionSettings, keep: Tensor | None, version_lag: Tensor | None
) -> None:
    """Counts, tokens and ladder of a chunk.

    Args:
        keep: (tokens,) bool of the tokens that rejections leave in, or None for all.
        version_lag: (tokens,) int64, or None.
    """
    logs = chunk.log_ratio
    tokens = logs.numel()
    kept = tokens if keep is None else int(keep.sum())
    empty = chunk.sizes.count(0)
    counts = (len(chunk.sizes) - empty, empty, tokens, kept, 0)
    sums.section("batch").add_(torch.tensor(counts, dtype=torch.float64, device=logs.device))
    if tokens == 0:
        return
    excess = _excess(logs)
    moments = _moments(logs, excess)
    sums.section("token").add_(moments[1:])
    sums.section("token_histogram").add_(fold(torch.bincount(codes(logs), minlength=CODES)))
    if version_lag is not None:
        _add_lags(sums, logs, excess, moments, version_lag)

    levels = Levels(chunk, settings)
    ladder = sums.section("ladder").view(RUNGS, -1)
    if settings.weight_level == "adaptive":
        first = _token_row(levels.tokens(), settings, keep, chunk.largest, moments)
        rows = torch.cat([first, _rows(*levels.ladder(), settings, keep)]) if levels.highest else first
        # Rungs above the highest are the same as it.
        ladder.add_(torch.cat([rows, rows[-1:].expand(RUNGS - len(rows), -1)]))
    elif settings.weight_level == "token" or settings.method not in WEIGHTED:
        ladder[:1] += _token_row(levels.tokens(), settings, keep, chunk.largest, moments)
    else:
        units = levels.fixed()
        ladder[:1] += _rows(units, [units.raw.numel()], settings, keep)


def add_sequences(sums: Sums, whole: Tensor) -> None:
    """The log-ratios of whole sequences (occupied sequences,) float64, of a batch or a part of it."""
    sums.section("sequence").add_(_moments(whole, _excess(whole))[1:])
    places = codes(whole.float())
    sums.section("sequence_histogram").add_(fold(torch.bincount(places, minlength=CODES)))
    sums.section("sequence_histogram_sum").add_(fold(torch.bincount(places, whole, CODES)))


def add_offending(sums: Sums, logs: Tensor, advantages: Tensor) -> None:
    """Count and squared log-ratio of the tokens that the update would push further off-policy, by magnitude."""
    pushed = logs[offending(logs, advantages)]
    places = magnitudes(pushed)
    counts = torch.bincount(places, minlength=BINS).double()
    squares = torch.bincount(places, pushed.square().double(), BINS)
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


def _add_lags(sums: Sums, logs: Tensor, excess: Tensor, moments: Tensor, lag: Tensor) -> None:
    """The token moments by version lag (tokens,)."""
    by_lag = sums.section("lag").view(LAGS, -1)
    lowest, highest = (min(max(int(value), 0), LAGS - 1) for value in torch.aminmax(lag))
    if lowest == highest:
        by_lag[lowest] += moments
        return
    columns = (torch.ones_like(logs), logs, logs.abs(), logs.square(), excess, excess.square())
    place = lag.clamp(0, LAGS - 1)
    by_lag.add_(torch.stack([torch.bincount(place, values.double(), LAGS) for values in columns], 1))


def _moments(logs: Tensor, excess: Tensor) -> Tensor:
    """(6,) float64: how many, and sums of the log-ratio, its magnitude and square, of ratio - 1 and its square."""
    count = logs.new_tensor([logs.numel()], dtype=torch.float64)
    sums = torch.stack([logs.sum(), logs.abs().sum(), logs.dot(logs), excess.sum(), excess.dot(excess)])
    return torch.cat([count, sums])


def _token_row(
    units: Units, settings: CorrectionSettings, keep: Tensor | None, largest: float, moments: Tensor
) -> Tensor:
    """(1, 5) the row of the ladder where every token is a unit, as in `_rows`, from what is known of the tokens."""
    if keep is None and largest < math.log(settings.cap) and settings.method in ("tis", "vcpo", "ais"):
        # No weight is truncated: w = 1 + excess.
        count, _, _, _, total, square = moments
        return torch.stack([total, square, total + count, square + 2.0 * total + count, total.new_zeros(())])[None]
    weight = unit_weights(units, settings)
    capped = (units.truncated >= math.log(settings.cap)).sum().double()
    if keep is not None:
        weight = weight[keep]
    return torch.cat([moments[4:], torch.stack([weight.sum(), weight.dot(weight)]).double(), capped[None]])[None]


def _rows(units: Units, counts: list[int], settings: CorrectionSettings, keep: Tensor | None) -> Tensor:
    """Rows of the ladder, (len(counts), 5) float64, for units of which the first counts[0] make the first row, and so
    on. Summed over tokens: w - 1, (w - 1)^2, applied weight, its square, whether at the cap."""
    columns = units.raw.new_empty(5, units.raw.numel())
    excess, weight = columns[0], columns[2]
    torch.expm1(units.raw.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT), out=excess)
    if units.truncated is units.raw and settings.method in ("tis", "vcpo", "ais"):
        torch.add(excess, 1.0, out=weight).clamp_(max=settings.cap)
    else:
        weight.copy_(unit_weights(units, settings))
    torch.square(excess, out=columns[1])
    torch.square(weight, out=columns[3])
    columns[4] = units.truncated >= math.log(settings.cap)
    if units.sizes is not None:
        columns.mul_(units.sizes)
    if keep is not None:
        # Rejections leave their mark on the applied weight alone.
        columns[2:4] *= _kept_share(units, counts, keep)
    return torch.stack([part.sum(1) for part in torch.split(columns, counts, 1)]).double()


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
