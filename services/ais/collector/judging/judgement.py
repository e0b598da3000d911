"""What becomes of judging one response by one component: scores, or a failure with its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from reprlib import repr as short

from ais.collector.settings.rewards import LARGEST_SCORE

MOST_PARTS = 32
"""Scores that one judgement may name."""
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Outcome(StrEnum):
    """What became of a judgement."""

    JUDGED = "judged"
    OVERTIME = "overtime"
    """It took longer than collector.judging.seconds."""
    MEMORY = "memory"
    """It needed more than collector.judging.memory_megabytes; a program, more than environment.program_megabytes."""
    ERROR = "error"
    """The verifier raised an error."""
    NO_REWARD = "no_reward"
    """The verifier gave what is no score: None, a truth value, a list, NaN, a number out of bounds."""
    LEFT_PROCESSES = "left_processes"
    """The verifier started processes and left them running. They are ended."""
    DIED = "died"
    """The worker's process ended."""
    LOST = "lost"
    """The agent elsewhere that played the episode was not heard of any more, or gave it back. Another one plays it."""
    SERVICE = "service"
    """The reward service did not answer, or did not answer as it should."""


@dataclass(frozen=True)
class Failure:
    """A response could not be judged."""

    outcome: Outcome
    reason: str


Scores = Mapping[str, float]
"""Scores of one response by name; a verifier that gives one number names it by an empty text."""
Judgement = Scores | Failure
Observe = Callable[[str, Outcome, float], None]
"""Is told the component, the outcome and the seconds of each judgement."""


def unobserved(component: str, outcome: Outcome, seconds: float) -> None:
    """For those who do not count judgements."""


def judgement_of(verdict: object) -> Judgement:
    """What a verifier gave, checked: finite numbers within +-`LARGEST_SCORE`, or a failure that says what came."""
    if not isinstance(verdict, Mapping):
        number = _number(verdict)
        return _no_reward(verdict) if number is None else {"": number}
    if not 1 <= len(verdict) <= MOST_PARTS:
        return Failure(Outcome.NO_REWARD, f"expected 1 to {MOST_PARTS} named scores, got {len(verdict)}")
    scores = {}
    for name, value in verdict.items():
        if not isinstance(name, str) or not _PART.fullmatch(name):
            return Failure(Outcome.NO_REWARD, f"{short(name)} is no name of a score: letters, digits, _ . - up to 64")
        if (number := _number(value)) is None:
            return _no_reward(value, f" for {name}")
        scores[name] = number
    return scores


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number may have any number of digits
        return None
    return number if math.isfinite(number) and abs(number) <= LARGEST_SCORE else None


def _no_reward(value: object, where: str = "") -> Failure:
    return Failure(Outcome.NO_REWARD, f"expected a number within +-{LARGEST_SCORE:g}{where}, got {_told(value)}")


def _told(value: object) -> str:
    try:
        return short(value)
    except Exception as error:  # anybody's class
        return f"a {type(value).__name__} ({type(error).__name__})"
