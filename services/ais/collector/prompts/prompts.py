"""What a task source gives: an endless order of prompts that is a pure function of seed and ordinal.

Because the order has no state, it is resumable for free: whoever knows an ordinal knows its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class TaskError(ValueError):
    """The task cannot be used. The message says which file and line, or which setting, and what was expected."""


class Split(StrEnum):
    """Prompts of one split do not serve in another (for `jsonl`: when a held-out file is given)."""

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

    def prompt(self, ordinal: int) -> Prompt: ...
