"""Measuring: what each chunk of a batch adds to the sums."""

import math

import torch
from torch import Tensor

from ais_core.histogram import BINS, bins
from ais_core.levels import RUNGS, Levels, Units
from ais_core.ratios import Chunk, exponential
from ais_core.rejections import offending
from ais_core.settings import EXPONENT_LIMIT, WEIGHTED, CorrectionSettings
from ais_core.sums import LAGS, Sums


def add(sums: Sums, chunk: Chunk, settings: CorrectionSettings, keep: Tensor | None) -> None:
    """Count, tokens, sequences and ladder of a chunk.

    Args:
        keep: (tokens,) bool of the tokens that rejections leave in, or None for all.
    """
    logs = chunk.log_ratio
    tokens = logs.numel()
    occupied = int((chunk.lengths > 0).sum())
    kept = tokens if keep is None else int(keep.sum())
    counts = (occupied, chunk.lengths.numel() - occupied, tokens, kept, 0)
    sums.section("batch").add_(torch.tensor(counts, dtype=torch.float64, device=logs.device))
    if tokens == 0:
        return
    excess = _excess(logs)
    _add_moments(sums.section("token"), logs, excess, logs.abs().sum())
    sums.section("token_histogram").add_(torch.bincount(bins(logs), minlength=2 * BINS))

    whole = chunk.sequence_sum(logs)[chunk.lengths > 0]
    _add_moments(sums.section("sequence"), whole, _excess(whole))
    places = bins(whole.float())
    sums.section("sequence_histogram").add_(torch.bincount(places, minlength=2 * BINS))
    sums.section("sequence_histogram_sum").add_(torch.bincount(places, whole, minlength=2 * BINS))

    levels = Levels(chunk, settings)
    ladder = sums.section("ladder").view(RUNGS, -1)
    if settings.weight_level != "adaptive":
        units = levels.fixed() if settings.method in WEIGHTED else levels.rung(0)
        ladder[0] += _row(units, settings, keep, excess if units.raw is logs else None)
        return
    rows = [_row(units, settings, keep, excess if units.raw is logs else None) for units in levels.ladder()]
    # Rungs above the highest are the same as it.
    ladder.add_(torch.stack(rows + rows[-1:] * (RUNGS - len(rows))))


def add_offending(sums: Sums, logs: Tensor, advantages: Tensor) -> None:
    """Count and squared log-ratio of the tokens that the update would push further off-policy, by magnitude."""
    pushed = logs[offending(logs, advantages)]
    places = bins(pushed).remainder_(BINS)
    counts = torch.bincount(places, minlength=BINS).double()
    squares = torch.bincount(places, pushed.square().double(), BINS)
    sums.section("offending").add_(torch.cat([counts, squares]))


def add_lags(sums: Sums, logs: Tensor, version_lag: Tensor) -> None:
    """The token moments by version lag."""
    lag = version_lag.clamp(0, LAGS - 1)
    excess = _excess(logs)
    columns = (torch.ones_like(logs), logs, logs.abs(), logs.square(), excess, excess.square())
    by_lag = [torch.bincount(lag, values.double(), LAGS) for values in columns]
    sums.section("lag").view(LAGS, -1).add_(torch.stack(by_lag, 1))


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


def _add_moments(section: Tensor, logs: Tensor, excess: Tensor, *absolute: Tensor) -> None:
    section.add_(torch.stack([logs.sum(), *absolute, logs.dot(logs), excess.sum(), excess.dot(excess)]))


def _row(units: Units, settings: CorrectionSettings, keep: Tensor | None, excess: Tensor | None) -> Tensor:
    """One row of the ladder, summed over tokens: w - 1, (w - 1)^2, applied weight, its square, whether at the cap."""
    if excess is None:
        excess = _excess(units.raw)
    if units.truncated is units.raw and settings.method in ("tis", "vcpo", "ais"):
        weight = (excess + 1.0).clamp_(max=settings.cap)
    else:
        weight = unit_weights(units, settings)
    capped = units.truncated >= math.log(settings.cap)
    if units.last is None:
        moments = [excess.sum(), excess.dot(excess), weight.sum(), weight.dot(weight), capped.count_nonzero()]
        row = torch.stack(moments).double()
    else:
        row = units.totals(
            torch.stack([excess, excess.square(), weight, weight.square(), capped.to(excess.dtype)])
        ).double()
    if keep is not None:
        weight = units.spread(weight, keep.numel())[keep]
        row[2], row[3] = weight.sum(), weight.square().sum()
    return row


def _excess(log_weights: Tensor) -> Tensor:
    """exp - 1, with the clamped exponent, exact where the log-weight is small."""
    return log_weights.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).expm1_()
