"""The episodes that are replayed: what programs say and what the policy answers, the same ones every time. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

DIGITS = "0123456789"


@dataclass(frozen=True)
class Shape:
    """How long episodes are."""

    turns: int = 8
    prompt: int = 256
    """Tokens of the first message. The small policies have one for each character."""
    answer: int = 64
    """Tokens of each turn of the policy, the stop token included."""
    told: int = 64
    """Tokens of each message after the first."""

    @property
    def tokens(self) -> int:
        """All tokens of an episode, about: a template may add some."""
        return self.prompt + self.turns * (self.answer + self.told)


@dataclass(frozen=True)
class ReplayedEpisode:
    """One episode."""

    said: tuple[str, ...]
    """Messages of the program, one before each turn."""
    answers: tuple[str, ...]
    """What the policy answers, in digits."""


def episode(number: int, shape: Shape) -> ReplayedEpisode:
    """The episode of that number."""
    drawn = random.Random(f"agents:{number}")

    def digits(length: int) -> str:
        return "".join(drawn.choices(DIGITS, k=length))

    said = tuple(digits(shape.told if turn else shape.prompt) for turn in range(shape.turns))
    return ReplayedEpisode(said, tuple(digits(shape.answer - 1) for _ in range(shape.turns)))
