"""Downsampling: a long series as the mean and the range of each of its buckets. Pure.

Bucket k of width w has rows k w ... (k + 1) w - 1, and w is a power of two. So what is added to a series changes its
last buckets only, until the width doubles: who follows it asks for these alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ais.console.columns import Values

MOST_BUCKETS = 800
"""More than a plot has pixels for in its usual width."""


@dataclass(frozen=True)
class Buckets:
    """One series: float64 [buckets] each, NaN where a bucket has no finite value."""

    mean: Values
    low: Values
    high: Values


def width_for(rows: int) -> int:
    """The least power of two with which so many rows make at most `MOST_BUCKETS` buckets."""
    width = 1
    while -(-rows // width) > MOST_BUCKETS:
        width *= 2
    return width


def last_rows(first: int, end: int, width: int) -> list[int]:
    """The last row of each bucket that has some of the rows `first` up to, and without, `end`."""
    return [min((bucket + 1) * width, end) - 1 for bucket in range(first // width, -(-end // width))]


def summarise(values: Values, first: int, end: int, width: int) -> Buckets:
    """The buckets of the rows `first` up to, and without, `end` of a series, which are one at least."""
    starts = np.maximum(np.arange(first // width, -(-end // width)) * width, first) - first
    chosen = values[first:end]
    finite = np.isfinite(chosen)
    known = np.where(finite, chosen, np.nan)
    low, high = np.fmin.reduceat(known, starts), np.fmax.reduceat(known, starts)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.add.reduceat(np.where(finite, chosen, 0.0), starts) / np.add.reduceat(finite, starts, dtype=np.int64)
    return Buckets(np.clip(mean, low, high), low, high)  # rounding may lead out of the range by a bit
