"""Sort digits by rounds of swaps between neighbours, the row written after each round.

`3142=` is answered by `1324;1234,1234;1234`: in the first round the pairs (1, 2), (3, 4) ... are put in order, in the
second (2, 3), (4, 5) ..., and so on in turn. n rounds sort any n digits (Knuth, The Art of Computer Programming, 5.3.4,
exercise 37). `;` ends odd rounds, `,` even ones. A digit lost in one round is lost to the end, so the work matters.
"""

from __future__ import annotations

import random

from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.tasks.worked.splits import draw


class SortSwapsTask:
    """Sorting with its swaps. An answer to n digits has n (n + 1) tokens, its end token included."""

    distinct: int | None = None
    too_long = 0

    def __init__(self, digits: int, seed: int, split: Split, label: str) -> None:
        self.name = label
        self._digits, self._seed, self._split = digits, seed, split

    @property
    def sources(self) -> tuple[SortSwapsTask, ...]:
        return (self,)

    def prompt(self, ordinal: int) -> Prompt:
        row = draw(self._row, self._seed, self._split, ordinal)
        rows = rows_after_rounds(row)
        answer = "".join(text + ";,"[count % 2] for count, text in enumerate(rows[:-1])) + rows[-1]
        return Prompt(f"sort_swaps{self._digits}-{row}", f"{row}=", answer, source=self.name)

    def _row(self, generator: random.Random) -> str:
        return "".join(generator.choices("0123456789", k=self._digits))


def rows_after_rounds(row: str) -> list[str]:
    """`row` after each of as many rounds as it has digits; the last is sorted."""
    digits, rows = list(row), []
    for count in range(len(digits)):
        for left in range(count % 2, len(digits) - 1, 2):
            digits[left : left + 2] = sorted(digits[left : left + 2])
        rows.append("".join(digits))
    return rows
