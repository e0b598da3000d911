"""Add a column of numbers, the running total written after each.

With three digits, `52100+00200=` (125 + 2 ...) is answered by `52100,72100`: numbers are written units first, as they
are added on paper, and padded with zeros to one width. A total that is wrong makes every later one wrong.
"""

from __future__ import annotations

import random
from itertools import accumulate

from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.tasks.worked.sort_swaps import STEP_END
from ais.collector.tasks.worked.splits import draw

ROOM = 2
"""Digits that a total may have more than a term: a hundred terms fit."""


class ColumnSumTask:
    """`terms` numbers of up to `digits` digits; the answer has `terms` times `digits` + 3 characters."""

    distinct: int | None = None

    def __init__(self, terms: int, digits: int, seed: int, split: Split) -> None:
        self.name = f"column_sum{terms}x{digits}"
        self._terms, self._digits, self._seed, self._split = terms, digits, seed, split

    def prompt(self, ordinal: int) -> Prompt:
        column = draw(self._column, self._seed, self._split, ordinal)
        totals = accumulate(read(term) for term in column.split("+"))
        answer = STEP_END.join(self._write(total) for total in totals)
        return Prompt(prompt_id=f"{self.name}-{self._split}-{self._seed}-{ordinal}", text=f"{column}=", answer=answer)

    def _column(self, generator: random.Random) -> str:
        return "+".join(self._write(generator.randrange(10**self._digits)) for _ in range(self._terms))

    def _write(self, number: int) -> str:
        return str(number).zfill(self._digits + ROOM)[::-1]


def read(digits: str) -> int:
    """The number that is written units first."""
    return int(digits[::-1])
