"""The sufficient statistics of a batch: one flat float64 tensor whose values add.

Everything the library decides or reports about a batch is a function of this tensor. Adding the tensors of microbatches
and all-reducing over ranks therefore gives the same decision as one big batch.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ais_core.diagnostics.histogram import BINS, FINE_BINS, LOG_BINS
from ais_core.errors import ShapeError
from ais_core.levels import RUNGS

LAGS = 9
"""Version lags told apart: 0, 1, ... 7, and 8 or more."""

RAW = ("raw", "square_raw", "low", "high")
"""Sums over raw weights within the exponent limit and over their squares, and how many weights lie below and above it.
`Moments.of_raw` says what they are evidence of."""

MOMENTS = ("log_ratio", "abs_log_ratio", "square_log_ratio", "excess", "square_excess", *RAW)

LADDER = (*RAW, "sequence_square_raw", "weight", "square_weight", "truncated")
"""The sums of one rung, over tokens. `sequence_square_raw` multiplies each square by the length of its sequence."""

_SECTIONS = {
    "batch": ("sequences", "empty_sequences", "tokens", "kept_tokens", "non_finite_tokens"),
    "token": MOMENTS,
    "sequence": MOMENTS,
    "ladder": RUNGS * LADDER,
    "log_weight": RUNGS * LOG_BINS * ("tokens",),
    "offending": FINE_BINS * ("count",) + FINE_BINS * ("square_log_ratio",),
    "token_histogram": 2 * BINS * ("count",),
    "sequence_histogram": 2 * BINS * ("count",),
    "sequence_histogram_sum": 2 * BINS * ("log_ratio",),
    "lag": LAGS * ("tokens", *MOMENTS),
}
"""The sums in order. `excess` is ratio - 1 of the raw ratio: it keeps small mismatches exact where the ratio
itself would lose them to rounding. The ladder, and the histogram of logarithms of truncated weights, have a row for
each rung; a fixed level uses the first row, and `handover` has its tokens in the second."""


def _places() -> dict[str, slice]:
    places, start = {}, 0
    for name, fields in _SECTIONS.items():
        places[name] = slice(start, start + len(fields))
        start += len(fields)
    return places


PLACES = _places()
SIZE = PLACES["lag"].stop
DECISIVE = PLACES["ladder"].stop
"""A mixing coefficient needs only the sums before this index, and a state keeps only those."""
_LONG = slice(PLACES["log_weight"].start, PLACES["offending"].stop)
"""Sections so long that they are read on their own, where they are needed."""


@dataclass(frozen=True, eq=False)
class Sums:
    """A view of the flat tensor by section. Writing to a section writes to the tensor; read values once all is
    written."""

    flat: Tensor

    @classmethod
    def zero(cls, device: torch.device | None = None) -> "Sums":
        """The sums of nothing."""
        return cls(torch.zeros(SIZE, dtype=torch.float64, device=device))

    def section(self, name: str) -> Tensor:
        """The slice of that name."""
        return self.flat[PLACES[name]]

    def values(self, name: str) -> list[float]:
        """A section as Python floats."""
        place = PLACES[name]
        if place.stop <= _LONG.start:
            return self._before[place]
        if place.start >= _LONG.stop:
            return self._after[place.start - _LONG.stop : place.stop - _LONG.stop]
        floats: list[float] = self.flat[place].tolist()
        return floats

    @cached_property
    def _before(self) -> list[float]:
        floats: list[float] = self.flat[: _LONG.start].tolist()
        return floats

    @cached_property
    def _after(self) -> list[float]:
        floats: list[float] = self.flat[_LONG.stop :].tolist()
        return floats

    @property
    def finite(self) -> bool:
        """Whether every sum is finite."""
        return bool(self.flat.isfinite().all())


def check(flat: Tensor) -> Sums:
    """The sums in a flat tensor. Raises ShapeError if `measure` did not make it."""
    if flat.shape != (SIZE,) or flat.dtype != torch.float64 or flat.is_meta:
        raise ShapeError(f"sums are ({SIZE},) float64 with values, got {tuple(flat.shape)} {flat.dtype} {flat.device}")
    return Sums(flat)
