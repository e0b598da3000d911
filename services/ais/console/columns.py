"""The numbers of a run's steps, a column for each quantity: what plots are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

FIRST_CAPACITY = 256
"""Rows that a new column has room for; then twice as many, and so on."""


class Columns:
    """Grows by a row for each step. What a step does not have, or what is no number, is NaN."""

    def __init__(self) -> None:
        self.rows = 0
        self._columns: dict[str, Values] = {}

    @property
    def keys(self) -> list[str]:
        """Quantities that any step has, in the order in which they came."""
        return list(self._columns)

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds a flat record. A truth is 1 or 0."""
        for key, value in record.items():
            if isinstance(value, bool | int | float):
                self._with_room(key)[self.rows] = value
        self.rows += 1

    def get(self, key: str) -> Values:
        """float64 [rows]."""
        return self._with_room(key)[: self.rows] if key in self._columns else np.full(self.rows, np.nan)

    def last(self) -> dict[str, float]:
        """The finite numbers of the last row."""
        if not self.rows:
            return {}
        values = {key: float(self.get(key)[-1]) for key in self._columns}
        return {key: value for key, value in values.items() if np.isfinite(value)}

    def _with_room(self, key: str) -> Values:
        column = self._columns.get(key)
        if column is None or len(column) <= self.rows:
            capacity = FIRST_CAPACITY
            while capacity <= self.rows:
                capacity *= 2
            grown = np.full(capacity, np.nan)
            if column is not None:
                grown[: len(column)] = column
            self._columns[key] = column = grown
        return column
