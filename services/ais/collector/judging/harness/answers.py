"""OpenAI's chat completions, as far as an episode has them: what is answered, whole or as a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ais.collector.environments.tool_calls import ToolCall

MODEL = "policy"
"""What the policy is called. Whatever a program calls it, it is asked."""

Finish = Literal["stop", "length", "tool_calls"]
END_OF_STREAM = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Piece:
    """A part of an answer."""

    text: str = ""
    token_ids: Sequence[int] = ()
    """Those whose text is told with it or was before."""
    logprobs: Sequence[tuple[str, float]] | None = None
    """How each of them is written, and its log-prob; None: not asked for."""

    def __bool__(self) -> bool:
        return bool(self.text or self.token_ids)

    def then(self, more: Piece) -> Piece:
        """Both, one after the other."""
        logprobs = None if more.logprobs is None else [*(self.logprobs or ()), *more.logprobs]
        return Piece(self.text + more.text, [*self.token_ids, *more.token_ids], logprobs)


@dataclass(frozen=True)
class Completed:
    """An answer of the policy."""

    name: str
    text: str
    finish: Finish
    prompt_tokens: int
    tokens: int
    """Sampled tokens, the stop token included."""
    calls: tuple[ToolCall, ...] = ()
    logprobs: Sequence[tuple[str, float]] | None = None
    """How each sampled token is written, and its log-prob under the policy that sampled it; None: not asked for."""
    token_ids: Sequence[int] = ()
    """All that was sampled."""

    def message(self) -> dict[str, Any]:
        """What the policy said."""
        said: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        if self.calls:
            said |= {"content": self.text or None, "tool_calls": self.told_calls()}
        return said

    def body(self) -> dict[str, Any]:
        """The answer as the API shows it."""
        choice = {"index": 0, "message": self.message(), "finish_reason": self.finish, "logprobs": self._logprobs()}
        return head(self.name, "chat.completion") | {"choices": [choice], "usage": usage_of(self)}

    def since(self, characters: int, tokens: int) -> Piece:
        """What of it was not told, where so many characters and tokens were."""
        logprobs = None if self.logprobs is None else self.logprobs[tokens:]
        return Piece(self.text[characters:], self.token_ids[tokens:], logprobs)

    def told_calls(self) -> list[dict[str, Any]]:
        """The calls as the API shows them."""
        return [
            {
                "id": f"call_{self.name.removeprefix('chatcmpl-')}_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for number, call in enumerate(self.calls)
        ]

    def _logprobs(self) -> dict[str, Any] | None:
        return None if self.logprobs is None else told_logprobs(self.logprobs)


def head(name: str, kind: str) -> dict[str, Any]:
    """What every answer and every piece of one begins with."""
    return {"id": name, "object": kind, "created": int(time.time()), "model": MODEL}


def usage_of(completed: Completed) -> dict[str, int]:
    """How many tokens there were."""
    total = completed.prompt_tokens + completed.tokens
    return {
        "prompt_tokens": completed.prompt_tokens,
        "completion_tokens": completed.tokens,
        "total_tokens": total,
    }


class ChatChunks:
    """Writes the stream of an answer, in pieces of the API."""

    def __init__(self, name: str, *, usage: bool) -> None:
        """`usage`: whether tokens are counted at its end."""
        self._head = head(name, "chat.completion.chunk")
        self._usage = usage

    def beginning(self) -> bytes:
        """The first one, which says who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def more(self, piece: Piece) -> bytes:
        """The next one."""
        return self._chunk({"content": piece.text} if piece.text else {}, piece.logprobs)

    def ending(self, completed: Completed, rest: Piece) -> Iterator[bytes]:
        """The last ones; `rest`: what has not been told of the answer."""
        delta: dict[str, Any] = {"content": rest.text} if rest.text else {}
        if completed.calls:
            delta["tool_calls"] = [{"index": index} | call for index, call in enumerate(completed.told_calls())]
        if delta or rest.logprobs:
            yield self._chunk(delta, rest.logprobs)
        yield self._chunk({}, finish=completed.finish)
        if self._usage:
            yield event(self._head | {"choices": [], "usage": usage_of(completed)})
        yield END_OF_STREAM

    def _chunk(
        self, delta: dict[str, Any], logprobs: Sequence[tuple[str, float]] | None = None, finish: Finish | None = None
    ) -> bytes:
        told = told_logprobs(logprobs) if logprobs else None
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": told}
        return event(self._head | {"choices": [choice]} | ({"usage": None} if self._usage else {}))


def broken(body: dict[str, Any]) -> bytes:
    """The last piece of a stream that comes to nothing. `body`: the error as the API shows it."""
    return event(body)


def told_logprobs(logprobs: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Log-probs of tokens as the API shows them."""
    return {"content": [_token(*one) for one in logprobs], "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    """Bytes are told where the token is text of its own, and not a part of a character."""
    whole = None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": whole, "top_logprobs": []}


def event(body: dict[str, Any]) -> bytes:
    """A piece of a stream."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"
