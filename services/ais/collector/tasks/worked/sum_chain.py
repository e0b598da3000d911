"""Add the last two numbers, again and again: a long addition a line.

With three digits and four terms, `210+430=` (12 and 34) is answered by `640,080,621,602`: 46, 80, 126, 206. Numbers are
written units first, as they are added on paper, and keep their last digits where they grow too long. A line that is
wrong makes every later one wrong.
"""

from __future__ import annotations

import random

from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.tasks.worked.splits import draw


class SumChainTask:
    """`terms` sums of `digits` digits. An answer has terms (digits + 1) tokens, its end token included."""

    distinct: int | None = None
    too_long = 0

    def __init__(self, terms: int, digits: int, seed: int, split: Split, label: str) -> None:
        self.name = label
        self._terms, self._digits, self._seed, self._split = terms, digits, seed, split

    @property
    def sources(self) -> tuple[SumChainTask, ...]:
        return (self,)

    def prompt(self, ordinal: int) -> Prompt:
        pair = draw(self._pair, self._seed, self._split, ordinal)
        first, _, second = pair.partition("+")
        answer = ",".join(chain(first, second, self._terms))
        return Prompt(f"sum_chain{self._terms}-{pair}", f"{pair}=", answer, source=self.name)

    def _pair(self, generator: random.Random) -> str:
        return "+".join("".join(generator.choices("0123456789", k=self._digits)) for _ in range(2))


def chain(first: str, second: str, terms: int) -> list[str]:
    """`terms` numbers after two of one width, each the sum of the two before it; all written units first."""
    width = len(first)
    before, last = (int(number[::-1]) for number in (first, second))
    written = []
    for _ in range(terms):
        before, last = last, (before + last) % 10**width
        written.append(str(last).zfill(width)[::-1])
    return written
