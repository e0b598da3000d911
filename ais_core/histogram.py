"""A histogram of signed values on a fixed logarithmic grid: counts add across microbatches and ranks.

A bin is a quarter of an octave of |x| and a sign, 2^-20 to 2^6; what is smaller or larger falls into the first or last
bin. The bin is read off the bits of the float32 itself: its exponent and the first two bits of its mantissa.
"""

import math

import torch
from torch import Tensor

OCTAVE_LOW = -20
OCTAVE_HIGH = 6
BINS = 4 * (OCTAVE_HIGH - OCTAVE_LOW)
"""Bins of one sign. A histogram has 2 * BINS: negative values first, each half from small to large magnitude."""

_MANTISSA_SHIFT = 21
_LOWEST = (127 + OCTAVE_LOW) << 2


def bins(values: Tensor) -> Tensor:
    """(n,) int32: the bin of each value of `values` (float32)."""
    bits = values.view(torch.int32)
    magnitude = ((bits & 0x7FFFFFFF) >> _MANTISSA_SHIFT).sub_(_LOWEST).clamp_(0, BINS - 1)
    return magnitude.add_((bits >= 0), alpha=BINS)


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
