"""What a task source gives: an endless order of prompts that is a pure function of seed and ordinal.

The order has no state, so a collector that starts again needs none: whoever knows an ordinal knows its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class TaskError(ValueError):
    """The task cannot be used. The message names the file and line, or the setting, and says what was expected."""


Fits = Callable[[str], bool]
"""Whether a problem's text, as a prompt, leaves the replicas room for an answer."""


def anything_fits(text: str) -> bool:  # noqa: ARG001
    """For those who do not ask."""
    return True


class Split(StrEnum):
    """What a prompt is for. No prompt is in two splits, except that `sort` with few digits makes the same one twice."""

    DEMONSTRATION = "demonstration"
    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True)
class Prompt:
    """A question, and what a verifier judges responses to it by."""

    prompt_id: str
    text: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What a verifier needs besides the answer: for `reasoning_gym`, that library's own metadata."""
    source: str = ""
    """Label of the source that it comes from: verifiers, metrics and evaluation go by it."""


class TaskSource(Protocol):
    """An endless seeded order of prompts."""

    name: str
    distinct: int | None
    """Different prompts there are; None: as many as one may want."""

    def prompt(self, ordinal: int) -> Prompt: ...
