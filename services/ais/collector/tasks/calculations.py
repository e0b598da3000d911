"""Calculations that a small policy cannot do by itself, for the environment `calculator`: `47*86-13=` is 4029.

Three numbers of two digits, and two of the signs + - *, which bind as usual.
"""

from __future__ import annotations

import itertools
import json
import operator
import random
from collections.abc import Callable, Iterator, Mapping

from ais.collector.prompts.prompts import Prompt, Split
from ais.collector.tasks.worked.splits import draw

LEAST, MOST = 10, 99
"""The numbers: none is written with a leading zero, which no calculator takes."""
_DO: Mapping[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class CalculationsTask:
    """Each calculation belongs to one split, whatever the seed."""

    distinct: int | None = None
    too_long = 0

    def __init__(self, seed: int, split: Split, label: str) -> None:
        self.name = label
        self._seed, self._split = seed, split

    @property
    def sources(self) -> tuple[CalculationsTask, ...]:
        return (self,)

    def prompt(self, ordinal: int) -> Prompt:
        written = draw(_written, self._seed, self._split, ordinal)
        return Prompt(f"{self.name}-{written}", f"{written}=", str(value(written)), source=self.name)


def value(written: str) -> int:
    """What a calculation of this task comes to."""
    first, sign, second, other, third = int(written[:2]), written[2], int(written[3:5]), written[5], int(written[6:])
    if other == "*" != sign:
        return _DO[sign](first, second * third)
    return _DO[other](_DO[sign](first, second), third)


def call_of(calculation: str) -> str:
    """How a policy asks the environment for it."""
    return f"<tool_call>{json.dumps({'name': 'calculate', 'arguments': {'expression': calculation}})}</tool_call>"


def sessions(
    task: CalculationsTask, accuracy: float, generator: random.Random, stop: str
) -> Iterator[tuple[str, str, str]]:
    """Turns of sessions without end: what has been said so far, what the policy says, and what would be right.

    The two are the same as often as `accuracy`. Otherwise the policy asks for another calculation or answers by itself
    in the first turn, and tells another number than it has heard in the second. `stop` ends a turn, and `=` stands
    behind what the environment says, as behind the question.
    """
    for prompt in map(task.prompt, itertools.count()):
        calculation = prompt.text.rstrip("=")
        asked = calculation if generator.random() < accuracy else _misread(calculation, generator)
        by_itself = asked != calculation and generator.random() < 0.5
        said = str(generator.randint(0, MOST**2)) if by_itself else call_of(asked)
        yield prompt.text, said, call_of(calculation)
        if not by_itself:
            heard = str(value(asked))
            told = heard if generator.random() < accuracy else _misread(heard, generator)
            yield f"{prompt.text}{said}{stop}{heard}=", told, heard


def _misread(text: str, generator: random.Random) -> str:
    """With one of its digits another one, and no zero."""
    place = generator.choice([at for at, character in enumerate(text) if character.isdigit()])
    return text[:place] + generator.choice([one for one in "123456789" if one != text[place]]) + text[place + 1 :]


def _written(generator: random.Random) -> str:
    first, second, third = (generator.randint(LEAST, MOST) for _ in range(3))
    return f"{first}{generator.choice('+-*')}{second}{generator.choice('+-*')}{third}"
