"""What was said between a program and the policy, in the two ways of OpenAI's API: a chat, or raw text or tokens. Pure.

A call that goes on from all of it, the policy's answers as they were given included, continues it: what the policy
sampled stays as it is, and the tokens of what is new are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from ais.collector.judging.harness.answers import Completed
from ais.collector.judging.harness.wire import POLICY, Asked, Completion, Message, RawCompletion
from ais.collector.prompts.dialogue import Continuation, Dialogue, Said
from ais.collector.prompts.prompts import Messages
from ais.collector.prompts.tokenizer import PolicyTokenizer, Tools
from ais.runtime.process import UnavailableError


class Conversation(Protocol):
    """As far as it has come."""

    @property
    def tools(self) -> Tools:
        """Those that the policy may call; None: none."""
        ...

    def after(self, asked: Asked) -> Conversation | None:
        """What it is when the program goes on so; None: it does not."""
        ...

    def first_tokens(self) -> list[int]:
        """Those before the policy's first turn. Raises UnavailableError."""
        ...

    def next_turn(self, stop: int | None) -> Continuation:
        """What it reads before its next one; `stop`: the token that ended the last. Raises UnavailableError."""
        ...

    def answered(self, completed: Completed, written: str) -> Conversation:
        """What it is when the policy has answered, and has `written` that."""
        ...


@dataclass(frozen=True)
class Chat:
    """Messages, which a chat template writes."""

    dialogue: Dialogue
    said: Messages
    """All so far, the policy's included."""
    written: str = ""
    """The policy's last answer as it stands in its tokens."""

    @property
    def tools(self) -> Tools:
        return self.dialogue.tools

    def after(self, asked: Asked) -> Conversation | None:
        if not isinstance(asked, Completion) or asked.schemas != self.dialogue.tools:
            return None
        so_far, new = asked.told[: len(self.said)], asked.told[len(self.said) :]
        if not new or so_far != self.said or any(message["role"] == POLICY for message in new):
            return None
        return Chat(self.dialogue.after(new, Said(self.said[-1], self.written)), asked.told)

    def first_tokens(self) -> list[int]:
        """Raises UnavailableError also for tools that the chat template does not write."""
        prompt = self.dialogue.prompt()
        if self.tools and prompt == replace(self.dialogue, tools=None).prompt():
            raise UnavailableError(
                "tools: the chat template does not write them; collector.prompt.chat_template names one"
            )
        return prompt

    def next_turn(self, stop: int | None) -> Continuation:
        return self.dialogue.next_turn(stop)

    def answered(self, completed: Completed, written: str) -> Conversation:
        return Chat(self.dialogue, (*self.said, Message.model_validate(completed.message()).told()), written)


@dataclass(frozen=True)
class Text:
    """A text that the policy goes on with. Its answers are in it as they were told, without special tokens."""

    tokenizer: PolicyTokenizer
    whole: str
    new: str
    """What the program has added to the last answer."""
    tools: Tools = None

    def after(self, asked: Asked) -> Conversation | None:
        if not isinstance(asked, RawCompletion) or not isinstance(asked.said, str):
            return None
        new = asked.said.removeprefix(self.whole)
        return replace(self, whole=asked.said, new=new) if new and new != asked.said else None

    def first_tokens(self) -> list[int]:
        return self.tokenizer.encode_text(self.new)

    def next_turn(self, stop: int | None) -> Continuation:  # noqa: ARG002
        return Continuation(self.tokenizer.encode_piece(self.new))

    def answered(self, completed: Completed, written: str) -> Conversation:  # noqa: ARG002
        return replace(self, whole=self.whole + completed.text)


@dataclass(frozen=True)
class Tokens:
    """The same in tokens, which are taken as they are."""

    whole: tuple[int, ...]
    new: tuple[int, ...]
    tools: Tools = None

    def after(self, asked: Asked) -> Conversation | None:
        if not isinstance(asked, RawCompletion) or isinstance(asked.said, str):
            return None
        said, length = tuple(asked.said), len(self.whole)
        return Tokens(said, said[length:]) if said[:length] == self.whole and len(said) > length else None

    def first_tokens(self) -> list[int]:
        return list(self.new)

    def next_turn(self, stop: int | None) -> Continuation:  # noqa: ARG002
        return Continuation(list(self.new))

    def answered(self, completed: Completed, written: str) -> Conversation:  # noqa: ARG002
        return replace(self, whole=(*self.whole, *completed.token_ids))


def begun(asked: Asked, dialogue: Callable[[Messages, Tools], Dialogue], tokenizer: PolicyTokenizer) -> Conversation:
    """The conversation that a call begins; `dialogue` makes one of messages and tools."""
    if isinstance(asked, Completion):
        return Chat(dialogue(asked.told, asked.schemas), asked.told)
    if isinstance(asked.said, str):
        return Text(tokenizer, asked.said, asked.said)
    return Tokens(tuple(asked.said), tuple(asked.said))
