"""Guess the number: the policy guesses, and is told whether that is too low or too high.

The prompt is `0-31;`, the turns are numbers of as many digits as the highest has, and the answers are `+` (higher), `-`
(lower) and `*` for what is no such number. The one who halves what is left needs no more turns than the binary
logarithm of how many numbers there are, rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

from ais.collector.environments.protocol import PolicyTurn, Prompt, Step
from ais.collector.tasks.guess_number import written
from ais.contracts.sampling import FinishReason

HIGHER, LOWER, NO_NUMBER = "+", "-", "*"


@dataclass
class GuessNumber:
    """1 for the turn that guesses the prompt's answer. The prompt's text says what the numbers are."""

    number: int = 0
    highest: int = 0

    def reset(self, prompt: Prompt) -> None:
        """Raises ValueError for a prompt of another task."""
        self.number = int(prompt.answer)
        self.highest = int(prompt.text.rstrip(";").partition("-")[2])

    def step(self, turn: PolicyTurn) -> Step:
        guess = turn.text
        if turn.finish_reason is not FinishReason.STOP or guess not in self._numbers():
            return _told(NO_NUMBER)
        if int(guess) == self.number:
            return Step(reward=1.0, done=True)
        return _told(HIGHER if int(guess) < self.number else LOWER)

    def _numbers(self) -> set[str]:
        return {written(number, self.highest) for number in range(self.highest + 1)}


def _told(sign: str) -> Step:
    return Step([{"role": "user", "content": sign}])
