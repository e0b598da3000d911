"""Numbers to be guessed, for the environment of that name: `00-31;` thinks of one from 0 to 31."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ais.collector.prompts.prompts import Prompt, Split


class GuessNumberTask:
    """A number of 0 to `highest` a prompt. All prompts read alike, so nothing of one split is learnt for another."""

    distinct: int | None = None
    too_long = 0

    def __init__(self, highest: int, seed: int, split: Split, label: str) -> None:
        self.name = label
        self._highest = highest
        self._stream = f"{seed}:{split}"

    @property
    def sources(self) -> tuple[GuessNumberTask, ...]:
        return (self,)

    def prompt(self, ordinal: int) -> Prompt:
        number = random.Random(f"{self._stream}:{ordinal}").randint(0, self._highest)
        return Prompt(f"{self.name}-{number}", question(self._highest), str(number), source=self.name)


MOST_GUESSES = 5
"""Guesses after which a demonstrated game is given up."""


def question(highest: int) -> str:
    """What the policy is asked; every number is written with as many digits as the highest."""
    return f"{written(0, highest)}-{highest};"


def written(number: int, highest: int) -> str:
    """A number as the policy says it."""
    return f"{number:0{len(str(highest))}}"


def games(highest: int, accuracy: float, generator: random.Random, stop: str) -> Iterator[tuple[str, str, str]]:
    """Turns of games without end: what has been said so far, a guess, and the guess that halves what is left.

    The two are the same as often as `accuracy`; otherwise the guess is any number. `stop` ends a turn.
    """
    while True:
        number, low, high = generator.randint(0, highest), 0, highest
        said = question(highest)
        for _ in range(MOST_GUESSES):
            best = (low + high) // 2
            guess = best if generator.random() < accuracy else generator.randint(0, highest)
            yield said, written(guess, highest), written(best, highest)
            if guess == number:
                break
            said += f"{written(guess, highest)}{stop}{'+' if guess < number else '-'}"
            low, high = (max(low, guess + 1), high) if guess < number else (low, min(high, guess - 1))
