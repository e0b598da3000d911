"""The tokens between two turns of the policy: what a chat template writes there, and never what the policy wrote.

The tokens so far stay as they are. What is added is what the template writes behind the policy's turn, up to where the
next is to begin. A stand-in takes the place of each turn of the policy in what is rendered, so that nothing depends on
how its text would be decoded and encoded again.

For that the template must be stable: a longer conversation begins with the shorter one, letter by letter. Templates
that strip reasoning from earlier turns, or treat the last turn in another way, are not. Where such a one does not go on
after what the policy wrote, its next turn may begin anew: it reads the conversation as the template writes it now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ais.collector.prompts.prompts import Messages, Question
from ais.collector.prompts.tokenizer import PolicyTokenizer
from ais.runtime.process import UnavailableError

REASONING = "<think>\nno\n</think>\n\nyes"
"""Takes a turn's place, and shows whether a template strips reasoning."""
STAND_INS = ("7", REASONING)
"""What `check_template` compares."""
SHOWN = 60
"""Characters of a rendering that an error shows."""


class UnstableTemplateError(UnavailableError):
    """A chat template does not go on where it stopped. The message names the place."""


@dataclass(frozen=True)
class Said:
    """A turn of the policy."""

    message: Mapping[str, Any]
    """As chat templates take it."""
    text: str
    """As it was written, without the stop token."""

    @classmethod
    def plainly(cls, text: str) -> Said:
        """A turn whose message is its text."""
        return cls({"role": "assistant", "content": text}, text)


@dataclass(frozen=True)
class Continuation:
    """What the policy reads before its next turn."""

    token_ids: list[int]
    begins_anew: bool = False
    """Whether that is all it reads. Otherwise it follows the tokens so far."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation with an environment, as far as it has come."""

    tokenizer: PolicyTokenizer
    question: Question
    tools: Sequence[Mapping[str, Any]] | None = None
    told: tuple[Messages, ...] = ()
    """What the environment said after each turn of the policy but the last."""
    stand_in: str = field(default=REASONING, repr=False)
    said: tuple[Said, ...] = field(default=(), repr=False)
    """Those turns, where they are known."""
    may_begin_anew: bool = False
    """Whether the next turn begins anew where the template does not go on where it stopped. `said` is needed for it."""
    looks_into_turns: bool = False
    """Whether the template is known not to be stable: then what the policy said is rendered, and no stand-in."""
    shorter: str | None = field(default=None, repr=False, compare=False)
    """How the conversation was rendered before the last messages, where it was: that need not be done again."""

    def prompt(self) -> list[int]:
        """Tokens of the prompt of the first turn. Raises UnavailableError as `PolicyTokenizer.encode_prompt`."""
        if not self.tokenizer.chats:
            return self.tokenizer.encode_prompt(self.question, self.tools)
        return self.tokenizer.encode_piece(self._rendered(()) if self.told else self._whole)

    def after(self, messages: Messages, said: Said | None = None) -> Dialogue:
        """The conversation when the policy has had a turn, which `said` that, and was told `messages`."""
        shorter = self.__dict__.get("_whole")  # what was never asked for is not rendered for this
        known = (*self.said, said) if said is not None else self.said
        return replace(self, told=(*self.told, messages), said=known, shorter=shorter)

    def next_turn(self, last_token: int | None) -> Continuation:
        """What the policy reads before its next turn; `last_token` and what is raised as for
        `tokens_before_next_turn`, but UnstableTemplateError only where the turn may not begin anew."""
        try:
            return Continuation(self.tokens_before_next_turn(last_token))
        except UnstableTemplateError:
            if not self.may_begin_anew:
                raise
        if not self.looks_into_turns:  # after what the policy did say, the template may go on
            return replace(self, looks_into_turns=True, shorter=None).next_turn(last_token)
        return Continuation(self.tokenizer.encode_piece(self._whole), begins_anew=True)

    def tokens_before_next_turn(self, last_token: int | None) -> list[int]:
        """The tokens from the end of the policy's last turn to the beginning of its next.

        `last_token` is the stop token that ended the turn, which the template would write as well; None: it was cut
        off. Raises UnstableTemplateError, and UnavailableError for words that the tokenizer has no tokens for.
        """
        if not self.told:
            raise ValueError("the policy has had no turn yet")
        return self.tokenizer.encode_piece(self._text(last_token))

    def _text(self, last_token: int | None) -> str:
        if not self.tokenizer.chats:
            return "".join(message["content"] for message in self.told[-1])
        asked, whole = self.shorter, self._whole
        turn = self.said[-1].text if self.looks_into_turns else self.stand_in
        if asked is None or not whole.startswith(asked + turn):  # a template may tell the time of day
            asked, whole = self._rendered(self.told[:-1]), self._rendered(self.told)
        rest = _rest(whole, asked + turn, len(self.told))
        stop = "" if last_token is None else self.tokenizer.text_of(last_token)
        between = rest.removeprefix(stop)
        # One that leaves turns out may begin as it did before by chance, where turns are alike.
        if self.looks_into_turns and not (rest.startswith(stop) and between):
            raise UnstableTemplateError(f"the chat template does not end turn {len(self.told)} as the policy ended it")
        return between

    @cached_property
    def _whole(self) -> str:
        """All of it, rendered once."""
        return self._rendered(self.told)

    def _rendered(self, told: Sequence[Messages]) -> str:
        """The conversation up to where the policy's next turn begins."""
        messages = self.tokenizer.messages(self.question)
        turns = self.said if self.looks_into_turns else [Said.plainly(self.stand_in)] * len(told)
        for turn, answer in zip(turns, told, strict=False):
            messages += [dict(turn.message), *map(dict, answer)]
        return self.tokenizer.render(messages, self.tools, then_turn=True)


def check_template(
    tokenizer: PolicyTokenizer,
    question: Question,
    answers: Sequence[Messages],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Raises UnstableTemplateError where the chat template is not stable over turns that are answered so.

    `answers`: what the environment says after one turn after the other. Whatever the policy writes, reasoning in its
    usual tags included, must stay where it is.
    """
    for stand_in in STAND_INS:
        dialogue = Dialogue(tokenizer, question, tools, stand_in=stand_in)
        for messages in answers:
            dialogue = dialogue.after(messages)
            dialogue.tokens_before_next_turn(None)
    if tokenizer.chats and answers:
        first, second = (
            Dialogue(tokenizer, question, tools, stand_in=stand_in).after(answers[0]).tokens_before_next_turn(None)
            for stand_in in STAND_INS
        )
        if first != second:
            raise UnstableTemplateError(
                "the chat template writes other tokens after a turn with reasoning than after one without: "
                f"{first} and {second}"
            )


def sequences_of(
    tokenizer: PolicyTokenizer,
    question: Question,
    answers: Sequence[Messages],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """Characters of the sequences that a conversation is read in whose turns have reasoning and are answered so.

    They are not counted in tokens because a small vocabulary may have none for reasoning.
    """
    dialogue = Dialogue(tokenizer, question, tools, looks_into_turns=True)
    lengths = [len(dialogue._whole + REASONING)]
    for messages in answers:
        dialogue = dialogue.after(messages, Said.plainly(REASONING))
        try:
            lengths[-1] += len(dialogue._text(None) + REASONING)
        except UnstableTemplateError:
            lengths.append(len(dialogue._whole + REASONING))
    return lengths


def _rest(longer: str, shorter: str, turn: int) -> str:
    """`longer` behind `shorter`, which ends with the policy's turn of that number."""
    if longer.startswith(shorter):
        return longer[len(shorter) :]
    same = next((at for at, (a, b) in enumerate(zip(longer, shorter, strict=False)) if a != b), len(longer))
    begin = max(0, same - SHOWN // 2)
    raise UnstableTemplateError(
        f"the chat template does not go on where it stopped: after turn {turn}, expected "
        f"{shorter[begin : same + SHOWN]!r}, got {longer[begin : same + SHOWN]!r}"
    )
