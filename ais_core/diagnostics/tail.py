"""Measures how heavy the tail of importance weights is: the shape k of a generalised Pareto, from a histogram.

Weights with a tail of shape k have 1 / k finite moments. The diagnostic and its threshold of 0.7 are those of Pareto
smoothed importance sampling (Vehtari et al., arXiv 1507.02646): the largest min(N / 5, 3 sqrt(N)) weights are taken as
exceedances over a threshold, and k is fitted by Zhang and Stephens' (2009) empirical Bayes estimate, shrunk towards 0.5
as if by ten more observations.

The sums of a batch hold counts and sums of log w in bins of a quarter octave, so that they add. A bin's weights are put
at two points around its mean, and the threshold lies on the edge of a bin. Against the fit to the weights themselves,
for shapes of 0.1 to 1.2, k is the same on average to 0.03. Single estimates differ by 0.08 (root mean square) at 256
weights and 0.06 at 1024 and more, where their own standard errors are 0.14 to 0.25 and 0.1 to 0.2
(`tests/unit/ais_core/test_tail.py`). Far from w = 1 the bins are too wide to resolve a tail, and there is no estimate.
"""

import math

from ais_core.diagnostics.histogram import BINS, edge

LEAST_EXCEEDANCES = 5
LEAST_BINS = 3
"""Occupied bins that a tail must spread over."""
PRIOR_SHAPE = 0.5
PRIOR_OBSERVATIONS = 10

_FROM_THE_TOP = (*range(2 * BINS - 1, BINS - 1, -1), *range(BINS))
"""The bins of log w from the largest value to the smallest."""


def tail_index(counts: list[float], sums: list[float]) -> float:
    """The shape k of the right tail of w; 0 when no weight exceeds 1 by anything, NaN when there is no estimate.

    Args:
        counts: (2 * BINS,) histogram of log w, as `histogram.fold` makes it.
        sums: (2 * BINS,) the sum of log w in each bin.
    """
    total = sum(counts)
    wanted = min(total / 5, 3 * math.sqrt(total))
    if wanted < LEAST_EXCEEDANCES:
        return math.nan
    occupied = [index for index in _FROM_THE_TOP if counts[index] > 0]
    if occupied[0] == BINS:
        return 0.0
    tail: list[int] = []
    found = 0.0
    for index in occupied:
        tail.append(index)
        found += counts[index]
        if found >= wanted:
            break
    if len(tail) < LEAST_BINS:
        return math.nan
    points = [point for index in tail for point in _points(index, counts[index], sums[index])]
    threshold, _ = _edges(tail[-1])
    # In units of the largest weight: k does not depend on the scale, and nothing overflows.
    largest, _ = points[0]
    base = math.exp(threshold - largest)
    return _shape([(math.exp(log - largest) - base, count) for log, count in points], found)


def _points(index: int, count: float, total: float) -> list[tuple[float, float]]:
    """The points of a bin that stand for its weights, as log w, and the number of weights at each."""
    low, high = _edges(index)
    mean = min(max(total / count, low), high)
    if count == 1:
        return [(mean, 1.0)]
    # A uniform distribution's deviation from its mean: all at the mean would be too narrow.
    spread = min((high - low) / math.sqrt(12), mean - low, high - mean)
    return [(mean + spread, count / 2), (mean - spread, count / 2)]


def _shape(points: list[tuple[float, float]], total: float) -> float:
    """Zhang and Stephens' estimate of a generalised Pareto's shape, with the prior of Pareto smoothing.

    Args:
        points: by how much weights exceed the threshold, falling, and how many there are of each; `total` in all.
    """
    candidates = 30 + int(math.sqrt(total))
    largest, quartile = points[0][0], _quartile(points, total)
    inverse_scales, shapes, likelihoods = [], [], []
    for step in range(1, candidates + 1):
        inverse_scale = (1.0 - math.sqrt(candidates / (step - 0.5))) / (3.0 * quartile) + 1.0 / largest
        shape = _mean_log(points, total, inverse_scale)
        if inverse_scale * shape < 0.0:  # 0 / 0 at the exponential distribution itself
            inverse_scales.append(inverse_scale)
            shapes.append(shape)
            likelihoods.append(total * (math.log(-inverse_scale / shape) - shape - 1.0))
    best = max(likelihoods)
    posterior = [math.exp(likelihood - best) for likelihood in likelihoods]
    mean = sum(p * scale for p, scale in zip(posterior, inverse_scales, strict=True)) / sum(posterior)
    shape = _mean_log(points, total, mean)
    return (total * shape + PRIOR_OBSERVATIONS * PRIOR_SHAPE) / (total + PRIOR_OBSERVATIONS)


def _mean_log(points: list[tuple[float, float]], total: float, inverse_scale: float) -> float:
    return sum(count * math.log1p(-inverse_scale * excess) for excess, count in points) / total


def _quartile(points: list[tuple[float, float]], total: float) -> float:
    """The excess that a quarter of the weights stay under."""
    rank, seen = math.floor(total / 4 + 0.5), 0.0
    for excess, count in reversed(points):
        seen += count
        if seen >= rank and excess > 0.0:
            return excess
    return points[0][0]


def _edges(index: int) -> tuple[float, float]:
    """The lower and the upper edge of a bin of log w."""
    if index >= BINS:
        return edge(index - BINS), edge(index - BINS + 1)
    return -edge(index + 1), -edge(index)
