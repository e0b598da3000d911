"""The weights of a batch at each rung of the ladder of blocks, read from its sums."""

from dataclasses import dataclass
from typing import Self

from ais_core.diagnostics.histogram import LOG_BINS, log_centre
from ais_core.diagnostics.moments import LARGEST_WEIGHT, Moments
from ais_core.diagnostics.sums import LADDER, Sums
from ais_core.levels import RUNGS


@dataclass(frozen=True, slots=True)
class Rung:
    """Sums over the tokens of a batch at one rung, as `ais_core.diagnostics.sums` lists them."""

    raw: float
    square_raw: float
    low: float
    high: float
    sequence_square_raw: float
    weight: float
    square_weight: float
    truncated: float

    @property
    def effective_sequences(self) -> float:
        """The effective number of sequences under the raw weights, bounded from below; at least 1.

        Kish's number (sum m)^2 / sum m^2 for sequences of mass m = length * weight. Where a sequence has several
        weights, m^2 stands for length * sum of squared weights, which is no smaller.
        """
        total, square = self.raw, self.sequence_square_raw
        if self.high > 0.0:
            over = self.high * LARGEST_WEIGHT
            total, square = total + over, square + over**2
        return max(total**2 / square, 1.0) if square > 0.0 else 1.0

    def raw_moments(self, tokens: float) -> Moments:
        """Moments of the raw weights over tokens."""
        return Moments.of_raw(tokens, self.raw, self.square_raw, self.high)

    def moments(self, tokens: float) -> Moments:
        """Moments of the truncated weights over tokens."""
        return Moments(self.weight / tokens, self.square_weight / tokens)

    def towards(self, other: Self, share: float) -> "Rung":
        """The sums of a mixture of the weights of two rungs.

        Squares are those of an upper bound (convexity): the effective sample is never overstated.
        """
        pairs = ((getattr(self, name), getattr(other, name)) for name in LADDER)
        return Rung(*(low + share * (high - low) for low, high in pairs))


def rungs(sums: Sums) -> list[Rung]:
    """The rungs of a batch, from single tokens to whole sequences. A fixed level has its weights in the first."""
    values, width = sums.values("ladder"), len(LADDER)
    return [Rung(*values[start : start + width]) for start in range(0, RUNGS * width, width)]


def at(rows: list[Rung], position: float) -> Rung:
    """The sums at a real-valued rung."""
    lower = int(position)
    return rows[lower].towards(rows[min(lower + 1, len(rows) - 1)], position - lower)


def log_weights(sums: Sums, position: float) -> list[tuple[float, float]]:
    """Logarithms of the truncated weights below the cap at a real-valued rung, and the tokens that have each."""
    rows, lower = sums.section("log_weight").view(RUNGS, LOG_BINS), int(position)
    mixed = rows[lower]
    if position > lower:
        mixed = mixed.lerp(rows[min(lower + 1, RUNGS - 1)], position - lower)
    return [(log_centre(index), tokens) for index, tokens in enumerate(mixed.tolist()) if tokens > 0.0]
