"""A histogram of signed values on a fixed logarithmic grid: counts add across microbatches and ranks.

A bin is a quarter of an octave of |x| and a sign, 2^-20 to 2^6; what is smaller or larger falls into the first or last
bin. The bin is read off the bits of the float32 itself: its exponent and the first two bits of its mantissa.
"""

import math
from functools import cache

import torch
from torch import Tensor

OCTAVE_LOW = -20
OCTAVE_HIGH = 6
BINS = 4 * (OCTAVE_HIGH - OCTAVE_LOW)
"""Bins of one sign. A histogram has 2 * BINS: negative values first, each half from small to large magnitude."""

CODES = 2048
"""Values of a float32's sign, exponent and first two bits of its mantissa: what a bin is read off."""

_SHIFT = 21
_LOWEST = (127 + OCTAVE_LOW) << 2


def codes(values: Tensor) -> Tensor:
    """(n,) int32 below CODES: sign, exponent and quarter of the octave of each value (float32). Count these; `fold`
    turns the counts into a histogram."""
    return (values.view(torch.int32) >> _SHIFT).bitwise_and_(CODES - 1)


def fold(counts: Tensor) -> Tensor:
    """(2 * BINS,) float64 histogram from counts, or any sums, by code (CODES,)."""
    histogram = counts.new_zeros(2 * BINS, dtype=torch.float64)
    return histogram.index_add_(0, _bin_of_code(counts.device), counts.double())


def magnitudes(values: Tensor) -> Tensor:
    """(n,) int64 below BINS: the bin of each value's magnitude (float32)."""
    return _bin_of_code(values.device)[codes(values.abs()).long()] - BINS


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
