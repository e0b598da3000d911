"""The sufficient statistics of a batch: one flat float64 tensor that adds.

Everything this library decides or reports about a batch is a function of this tensor, so adding the tensors of
microbatches and all-reducing over ranks gives the same decision as one big batch.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ais_core.diagnostics.histogram import BINS
from ais_core.errors import ShapeError
from ais_core.levels import RUNGS

LAGS = 9
"""Version lags told apart: 0, 1, ... 7, and 8 or more."""

_SECTIONS = {
    "batch": ("sequences", "empty_sequences", "tokens", "kept_tokens", "non_finite_tokens"),
    "token": ("log_ratio", "abs_log_ratio", "square_log_ratio", "excess", "square_excess"),
    "sequence": ("log_ratio", "abs_log_ratio", "square_log_ratio", "excess", "square_excess"),
    "ladder": RUNGS * ("excess", "square_excess", "weight", "square_weight", "truncated"),
    "offending": BINS * ("count",) + BINS * ("square_log_ratio",),
    "token_histogram": 2 * BINS * ("count",),
    "sequence_histogram": 2 * BINS * ("count",),
    "sequence_histogram_sum": 2 * BINS * ("log_ratio",),
    "lag": LAGS * ("tokens", "log_ratio", "abs_log_ratio", "square_log_ratio", "excess", "square_excess"),
}
"""What is summed, in order. `excess` is ratio - 1 of the raw ratio, which keeps small mismatches exact where the ratio
itself would lose them to rounding. The ladder has one row per rung, weighted by tokens, and for a fixed level one
row."""


def _places() -> dict[str, slice]:
    places, start = {}, 0
    for name, fields in _SECTIONS.items():
        places[name] = slice(start, start + len(fields))
        start += len(fields)
    return places


PLACES = _places()
SIZE = PLACES["lag"].stop
DECISIVE = PLACES["ladder"].stop
"""Sums before this index are all that a mixing coefficient needs, and all that a state keeps."""


@dataclass(frozen=True, eq=False)
class Sums:
    """A view of the flat tensor by section. Writing to a section writes to the tensor; values are read once all is
    written."""

    flat: Tensor

    @classmethod
    def zero(cls, device: torch.device | None = None) -> "Sums":
        """Nothing measured yet."""
        return cls(torch.zeros(SIZE, dtype=torch.float64, device=device))

    def section(self, name: str) -> Tensor:
        """The slice of that name."""
        return self.flat[PLACES[name]]

    def values(self, name: str) -> list[float]:
        """A section as Python floats."""
        return self._floats[PLACES[name]]

    @property
    def finite(self) -> bool:
        """Whether every sum is."""
        return math.isfinite(sum(self._floats))

    @cached_property
    def _floats(self) -> list[float]:
        floats: list[float] = self.flat.tolist()
        return floats


def check(flat: Tensor) -> Sums:
    """The sums in a flat tensor. Raises ShapeError if it is not one that `measure` makes."""
    if flat.shape != (SIZE,) or flat.dtype != torch.float64:
        raise ShapeError(f"sums are ({SIZE},) float64, got {tuple(flat.shape)} {flat.dtype}")
    return Sums(flat)
