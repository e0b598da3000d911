"""The numbers of a run's steps, a column for each quantity: what plots are drawn from."""

from __future__ import annotations

import math
from array import array
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
        self._columns: dict[str, array[float]] = {}  # a number is put into one in half the time of an ndarray

    @property
    def keys(self) -> list[str]:
        """Quantities that any step has, in the order in which they came."""
        return list(self._columns)

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds a record; what is in an object within it has both names: `phase_seconds.wait`. A truth is 1 or 0."""
        self._put(record, "")
        self.rows += 1

    def get(self, key: str) -> Values:
        """float64 [rows]."""
        if key not in self._columns:
            return np.full(self.rows, np.nan)
        return np.frombuffer(self._with_room(key), np.float64)[: self.rows]

    def last(self) -> dict[str, float]:
        """The finite numbers of the last row."""
        if not self.rows:
            return {}
        values = {key: float(self.get(key)[-1]) for key in self._columns}
        return {key: value for key, value in values.items() if np.isfinite(value)}

    def _put(self, record: Mapping[str, Any], prefix: str) -> None:
        row, columns = self.rows, self._columns
        for key, value in record.items():
            if isinstance(value, float | int):
                name = prefix + key
                try:
                    columns[name][row] = value
                except (KeyError, IndexError):
                    self._with_room(name)[row] = value
            elif isinstance(value, dict):
                self._put(value, f"{prefix}{key}.")

    def _with_room(self, key: str) -> array[float]:
        column = self._columns.get(key)
        if column is None or len(column) <= self.rows:
            capacity = FIRST_CAPACITY
            while capacity <= self.rows:
                capacity *= 2
            grown = array("d", [math.nan]) * capacity
            if column is not None:
                grown[: len(column)] = column
            self._columns[key] = column = grown
        return column
