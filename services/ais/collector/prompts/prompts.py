"""What a task source gives: an endless order of prompts that is a pure function of seed and ordinal.

The order has no state, so a collector that starts again needs none: whoever knows an ordinal knows its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

Messages = tuple[Mapping[str, Any], ...]
"""A chat: messages with the keys `role` and `content`, and whatever else the chat template knows."""
Question = str | Messages
"""What the policy is asked: a text, which the chat template gets as a user's message, or a chat."""


class TaskError(ValueError):
    """The task cannot be used. The message names the file and line, or the setting, and says what was expected."""


Fits = Callable[[Question], bool]
"""Whether a question, as a prompt, leaves the replicas room for an answer."""


def anything_fits(question: Question) -> bool:  # noqa: ARG001
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
    """The problem as text. Where `messages` are given, their last user message's."""
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What a verifier needs besides the answer: for `reasoning_gym`, that library's own metadata."""
    source: str = ""
    """Label of the source that it comes from: verifiers, metrics and evaluation go by it."""
    messages: Messages = ()
    """A chat to go on with, instead of the text."""

    @property
    def question(self) -> Question:
        """What the policy is asked."""
        return self.messages or self.text


class TaskSource(Protocol):
    """An endless seeded order of the prompts of one split.

    `ais.collector.tasks.task.open_task` opens what the settings ask for. To evaluate each source of a mixture by
    itself, open the task with `Split.HELD_OUT` and go through `task.sources`: each has its `name`, which every prompt
    of it carries as `Prompt.source`. Its first `min(wanted, source.distinct or wanted)` ordinals are to be asked: the
    same prompts in every process, none of which is ever trained on.
    """

    name: str
    """The label of the source; `mixture` for a mixture."""
    distinct: int | None
    """Different prompts there are; None: as many as one may want."""
    too_long: int
    """Prompts left out because they leave the replicas no room for an answer."""

    @property
    def sources(self) -> tuple[TaskSource, ...]:
        """The sources of a mixture, in the order of the settings; itself alone for any other."""
        ...

    def prompt(self, ordinal: int) -> Prompt:
        """The prompt of an ordinal, which any number from 0 to 2^62 may be: each costs the same."""
        ...
