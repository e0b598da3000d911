"""The steps of a run as the display needs them: a few numbers and short trends, however long the run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ais.launcher.directory.steps import StepLog

MOST_SHARES = 512
"""A trend is kept as means of at most this many shares of the run, at least half as many once it is long."""


class Trend:
    """One quantity over time."""

    def __init__(self) -> None:
        self._per_share = 1
        self._shares: list[tuple[float, int]] = []

    def add(self, value: float) -> None:
        if self._shares and self._shares[-1][1] < self._per_share:
            total, count = self._shares[-1]
            self._shares[-1] = total + value, count + 1
            return
        if len(self._shares) == MOST_SHARES:
            pairs = zip(self._shares[::2], self._shares[1::2], strict=True)
            self._shares = [(left[0] + right[0], left[1] + right[1]) for left, right in pairs]
            self._per_share *= 2
        self._shares.append((value, 1))

    @property
    def means(self) -> Sequence[float]:
        """Means over equal shares of the values, in order; the last share may be shorter."""
        return [total / count for total, count in self._shares]


class Course:
    """What is known of the steps so far."""

    def __init__(self, keys: Iterable[str]) -> None:
        """`keys`: the quantities whose trends are kept."""
        self._keys = tuple(keys)
        self.steps = 0
        self.last: dict[str, float] = {}
        """The quantities of the last step; one that it has no number for is not there."""
        self.trends: dict[str, Trend] = {}
        self._times: tuple[float, float] | None = None
        """When the first step and the last were recorded."""
        self._clear()

    def follow(self, log: StepLog) -> None:
        """Takes in what the log has got since the last call."""
        for record in log.new_records():
            if log.count == 1:  # the first line of a file: of a new one, where a trainer has rewound its records
                self._clear()
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes in one step's record."""
        self.steps += 1
        self.last = {key: value for key in self._keys if (value := number(record.get(key))) is not None}
        for key, value in self.last.items():
            self.trends[key].add(value)
        if (moment := number(record.get("time"))) is not None:
            self._times = (self._times or (moment, moment))[0], moment

    @property
    def seconds_a_step(self) -> float | None:
        """Mean pace; None before the second step."""
        if self.steps < 2 or self._times is None:
            return None
        return (self._times[1] - self._times[0]) / (self.steps - 1)

    def _clear(self) -> None:
        self.steps = 0
        self.last = {}
        self.trends = {key: Trend() for key in self._keys}
        self._times = None


def number(value: object) -> float | None:
    """A record's value, where it is a number that can be drawn."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
