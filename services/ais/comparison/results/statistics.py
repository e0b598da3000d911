"""Means with confidence intervals and paired tests, by Student's t distribution.

The distribution function comes from the regularised incomplete beta function, I_x(a, b), by its continued fraction
(Abramowitz and Stegun 26.5.8, evaluated by Lentz's method): P(|T| > t) = I_x(n/2, 1/2) with x = n / (n + t^2) and n
degrees of freedom (26.7.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
_TINY = 1e-300
_MOST_TERMS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    deviation: float
    """Standard deviation of the values; NaN for a single one."""
    half_width: float
    """Half the width of the 95% interval around the mean; NaN for a single value."""
    count: int


@dataclass(frozen=True)
class Paired:
    """The mean difference of pairs, and whether it may be chance."""

    difference: Estimate
    p_value: float
    """Two-sided, of the paired t-test; NaN for a single pair, and where all pairs differ by the same amount: there is
    no spread then to hold it against."""


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation and 95% interval of values that are numbers; NaN of none."""
    count = len(values)
    if count < 2:
        return Estimate(values[0] if values else math.nan, math.nan, math.nan, count)
    deviation = stdev(values)
    return Estimate(fmean(values), deviation, t_quantile(count - 1) * deviation / math.sqrt(count), count)


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """First minus second, pair by pair."""
    difference = estimate([one - other for one, other in zip(first, second, strict=True)])
    if difference.count < 2 or difference.deviation == 0.0:
        return Paired(difference, math.nan)
    statistic = difference.mean / (difference.deviation / math.sqrt(difference.count))
    return Paired(difference, t_tail(statistic, difference.count - 1))


def t_tail(statistic: float, freedom: int) -> float:
    """P(|T| > |statistic|) of Student's distribution with `freedom` degrees."""
    return incomplete_beta(freedom / (freedom + statistic**2), freedom / 2, 0.5)


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| <= t) = confidence, to 1e-10 of itself, by bisection."""
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > 1 - confidence else (low, middle)
    return (low + high) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), regularised, for 0 <= x <= 1 and positive a and b."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    if x < (a + 1) / (a + b + 2):  # where the fraction converges fast
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1.0 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function."""
    upper, lower = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    value = lower
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for factor in (even, odd):
            lower = 1.0 / _away_from_zero(1.0 + factor * lower)
            upper = _away_from_zero(1.0 + factor / upper)
            value *= upper * lower
        if abs(upper * lower - 1.0) < 1e-15:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
