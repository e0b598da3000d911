"""What a task source gives: an endless order of prompts that is a pure function of seed and ordinal.

The order has no state, so a collector that starts again needs none: whoever knows an ordinal knows its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class TaskError(ValueError):
    """The task cannot be used. The message says which file and line, or which setting, and what was expected."""


Fits = Callable[[str], bool]
"""Whether a problem's text, as a prompt, leaves the replicas room for an answer."""


def anything_fits(text: str) -> bool:  # noqa: ARG001
    """For those who do not ask."""
    return True


class Split(StrEnum):
    """No prompt serves in two splits."""

    DEMONSTRATION = "demonstration"
    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True)
class Prompt:
    """A question with what a verifier judges its responses by."""

    prompt_id: str
    text: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What a verifier may need besides the answer; for `reasoning_gym` that library's own metadata."""


class TaskSource(Protocol):
    """An endless seeded order of prompts."""

    name: str
    distinct: int | None
    """Different prompts there are; None: as many as one may want."""

    def prompt(self, ordinal: int) -> Prompt: ...
