"""Histograms on fixed grids: their counts add across microbatches and ranks.

Log-ratios are counted on a logarithmic grid. A bin is a quarter of an octave of |x| and a sign, from 2^-20 to 2^6; the
first and the last bin also hold everything smaller and larger. The bits of the float32 itself give the bin: its
exponent and the first two bits of its mantissa. M2PO's threshold needs a finer grid and takes four bits more.

Logarithms of weights are counted on a linear grid of a quarter of a nat between the exponent limits.
"""

import math
from functools import cache

import torch
from torch import Tensor

from ais_core.settings import EXPONENT_LIMIT

OCTAVE_LOW = -20
OCTAVE_HIGH = 6
BINS = 4 * (OCTAVE_HIGH - OCTAVE_LOW)
"""Bins of one sign. A histogram has 2 * BINS: negative values first, each half from small to large magnitude."""

FINE_BITS = 6
FINE_BINS = 2**FINE_BITS * (OCTAVE_HIGH - OCTAVE_LOW)
"""Bins of the magnitude alone, 1/64 of an octave each: between 0.8% and 1.6% of the value wide."""

LOG_STEP = 0.25
"""Nats."""
LOG_BINS = 2 * round(EXPONENT_LIMIT / LOG_STEP) + 1
"""Bins centred on whole multiples of LOG_STEP, from -EXPONENT_LIMIT to EXPONENT_LIMIT."""

CODES = 2048
"""The number of values that sign, exponent and the first two bits of the mantissa of a float32 take together."""

_MANTISSA_BITS = 23
_BIAS = 127
_SHIFT = _MANTISSA_BITS - 2
_LOWEST = (_BIAS + OCTAVE_LOW) << 2


def count(places: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """(size,) how many of places (n,) are 0, 1, ..., or the sums of their weights."""
    return torch.bincount(places, weights, size) if places.device.type == "cpu" else add_up(places, size, weights)


def add_up(places: Tensor, size: int, weights: Tensor | None) -> Tensor:
    """As `count`, float64. On a GPU it does not wait for the host, where `bincount` does; on a CPU it is slower."""
    values = torch.ones_like(places, dtype=torch.float64) if weights is None else weights.double()
    return torch.zeros(size, dtype=torch.float64, device=places.device).index_add_(0, places.long(), values)


def codes(values: Tensor) -> Tensor:
    """(n,) int32 below CODES: sign, exponent and quarter of the octave of each value (float32).

    Count these; `fold` turns the counts into a histogram.
    """
    return (values.view(torch.int32) >> _SHIFT).bitwise_and_(CODES - 1)


def fold(counts: Tensor) -> Tensor:
    """(2 * BINS,) float64 histogram from counts, or any sums, by code (CODES,)."""
    histogram = counts.new_zeros(2 * BINS, dtype=torch.float64)
    return histogram.index_add_(0, _bin_of_code(counts.device), counts.double())


def fine_magnitudes(values: Tensor) -> Tensor:
    """(n,) int32 below FINE_BINS: the fine bin of each value's magnitude (float32)."""
    fine = values.abs().view(torch.int32) >> (_MANTISSA_BITS - FINE_BITS)
    return fine.sub_((_BIAS + OCTAVE_LOW) << FINE_BITS).clamp_(0, FINE_BINS - 1)


def fine_edge(index: int) -> float:
    """The lower edge of fine bin `index`; 0 for the first, which holds everything smaller."""
    if index <= 0:
        return 0.0
    octave, part = divmod(index, 2**FINE_BITS)
    return float(2.0 ** (OCTAVE_LOW + octave) * (1 + part / 2**FINE_BITS))


def log_bins(log_weights: Tensor) -> Tensor:
    """(n,) int32 below LOG_BINS: the bin of each logarithm of a weight."""
    bins = (log_weights / LOG_STEP).round_().clamp_(-(LOG_BINS // 2), LOG_BINS // 2)
    return bins.int().add_(LOG_BINS // 2)


def log_centre(index: int) -> float:
    """The centre of bin `index` of logarithms of weights, nats."""
    return (index - LOG_BINS // 2) * LOG_STEP


@cache
def _bin_of_code(device: torch.device) -> Tensor:
    code = torch.arange(CODES, device=device)
    negative = code >> 10
    return ((code & 1023) - _LOWEST).clamp_(0, BINS - 1) + BINS * (1 - negative)


def edge(index: int) -> float:
    """The lower edge of magnitude bin `index`; 0 for the first, which holds everything smaller."""
    if index <= 0:
        return 0.0
    octave, quarter = divmod(index, 4)
    return float(2.0 ** (OCTAVE_LOW + octave) * (1 + quarter / 4))


def quantile(magnitudes: list[float], share: float) -> float:
    """The value under which `share` of the counts of `magnitudes` (BINS,) lie, interpolated in its bin.

    The error is at most the width of a bin, 25% of the value.
    """
    wanted = share * sum(magnitudes)
    seen = 0.0
    for index, count in enumerate(magnitudes):
        if count > 0 and seen + count >= wanted:
            low, high = edge(index), edge(index + 1)
            return low + (high - low) * (wanted - seen) / count
        seen += count
    return math.nan


def largest(magnitudes: list[float]) -> float:
    """The upper edge of the highest occupied bin, 0 when there is none: an upper bound of the maximum, 25% wide."""
    occupied = [index for index, count in enumerate(magnitudes) if count > 0]
    return edge(occupied[-1] + 1) if occupied else 0.0
