"""What an environment is: it opens an episode from a prompt, and answers each turn of the policy.

Both may be async. An environment is a value: after each call it is pickled, and the next call may be made in another
worker process, on a copy. So an episode survives whatever becomes of a process, all episodes of a group begin alike,
and an environment that holds something outside (a sandbox, a browser) keeps its address and not the connection.

What it does must follow from the prompt and the turns alone, drawn numbers included: a run that goes on after a crash
samples its groups again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ais.collector.prompts.prompts import Messages as Messages
from ais.collector.prompts.prompts import Prompt as Prompt
from ais.contracts.sampling import FinishReason


@dataclass(frozen=True)
class PolicyTurn:
    """What the policy said."""

    text: str
    """Without special tokens and without the stop token."""
    finish_reason: FinishReason
    """LENGTH: it was cut off."""
    number: int
    """Turns of the episode before this one."""
    turns_left: int
    """Turns that may come after this one; 0: the step's reward is the last."""
    tokens: int = 0
    """Tokens sampled, the stop token included."""
    most_tokens: int = 0
    """Tokens at which it would have been cut off: collector.sampling.max_new_tokens."""


@dataclass(frozen=True)
class Step:
    """What the environment makes of a turn."""

    messages: Sequence[Mapping[str, Any]] = ()
    """What the policy is told: one message or more, each with `role` and `content`, unless the episode is over."""
    reward: float = 0.0
    """An episode's reward is the sum over its steps."""
    done: bool = False
    """Whether the episode is over."""


class Environment(Protocol):
    """One episode. It must be picklable after `reset` and after each `step`.

    An attribute `tools`, if there is one, is a list of tool schemas that the chat template is given.
    """

    def reset(self, prompt: Prompt) -> Messages | Awaitable[Messages | None] | None:
        """Begins an episode. Returns the messages that open it; None: the prompt's own."""
        ...

    def step(self, turn: PolicyTurn) -> Step | Awaitable[Step]:
        """Answers a turn."""
        ...
