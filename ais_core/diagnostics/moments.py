"""Mean and second moment of weights, and the effective sample they leave."""

import math
from dataclasses import dataclass

from ais_core.settings import EXPONENT_LIMIT

SMALLEST_WEIGHT = math.exp(-EXPONENT_LIMIT)
LARGEST_WEIGHT = math.exp(EXPONENT_LIMIT)


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and second moment of weights."""

    mean: float
    square: float

    @classmethod
    def of_raw(cls, count: float, total: float, square: float, high: float) -> "Moments":
        """The moments of raw weights, of which those beyond the exponent limit are known only by number.

        Clamped weights all look alike, so a sample of them would look perfect. They bound the effective sample from
        below instead: a weight under the limit counts as 0, and all weights over the limit count as a single one. Where
        every weight is under the limit, one of them carries the sample, and nobody knows which.

        Args:
            count: how many weights there are.
            total, square: sums over the weights within the limit and over their squares.
            high: how many weights are over the limit.
        """
        if count <= 0.0:
            return cls(math.nan, math.nan)
        over = high * LARGEST_WEIGHT
        total, square = total + over, square + over**2
        if total <= 0.0:
            total, square = SMALLEST_WEIGHT, SMALLEST_WEIGHT**2
        return cls(total / count, square / count)

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
