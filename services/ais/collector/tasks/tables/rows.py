"""What a table of rows offers, wherever it lies: its rows one by one, and what an error calls each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ais.collector.prompts.prompts import TaskError

PROBLEMS_SHOWN = 5
"""Rows of one table that an error names before it says how many more there are."""
SHOWN = 80
"""Characters of a wrong value that an error shows."""

Row = Mapping[str, Any]
"""The values of a row by column."""


class Rows(Protocol):
    """Rows that are read when they are asked for, in any order. None of them is kept in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Row:
        """The row of a number from 0. Raises ValueError that says what is wrong with it."""
        ...

    def place(self, number: int) -> str:
        """Where a row stands, for a person: `train.jsonl, line 7`."""
        ...

    def default_id(self, number: int) -> str:
        """The id of a row that brings none: different for any two rows."""
        ...


def raise_problems(problems: Sequence[str]) -> None:
    """Raises TaskError that shows the first of the problems and counts the rest; does nothing without any."""
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        raise TaskError("\n".join([*problems[:PROBLEMS_SHOWN], *([f"... and {more} more"] if more > 0 else [])]))


def shown(text: str) -> str:
    """A wrong value as an error shows it."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
