"""Sort digits by swaps of neighbours, the whole row written after each swap.

`3142=` is answered by `1342,1324,1234`: the leftmost pair that is out of order is swapped, until there is none. Sixteen
digits take sixty swaps and a thousand characters. One wrong character is carried on to the end, so the work matters.
"""

from __future__ import annotations

import random
from itertools import pairwise

from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.tasks.worked.splits import draw

STEP_END = ","
"""Stands between two steps of written-out work."""


class SortSwapsTask:
    """Sorting with its swaps. Random digits need 0.225 n (n - 1) swaps on average, of n + 1 characters each."""

    distinct: int | None = None

    def __init__(self, digits: int, seed: int, split: Split) -> None:
        self.name = f"sort_swaps{digits}"
        self._digits, self._seed, self._split = digits, seed, split

    def prompt(self, ordinal: int) -> Prompt:
        row = draw(self._row, self._seed, self._split, ordinal)
        return Prompt(prompt_id=f"{self.name}-{row}", text=f"{row}=", answer=STEP_END.join(rows_after_swaps(row)))

    def _row(self, generator: random.Random) -> str:
        return "".join(generator.choices("0123456789", k=self._digits))


def rows_after_swaps(row: str) -> list[str]:
    """`row` after each swap; itself alone where it is sorted already."""
    rows = [row]
    while (at := _first_pair_out_of_order(rows[-1])) is not None:
        last = rows[-1]
        rows.append(last[:at] + last[at + 1] + last[at] + last[at + 2 :])
    return rows[1:] or rows


def _first_pair_out_of_order(row: str) -> int | None:
    return next((at for at, (left, right) in enumerate(pairwise(row)) if left > right), None)
