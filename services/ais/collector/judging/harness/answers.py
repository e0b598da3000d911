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
            said |= {"content": self.text or None, "tool_calls": self._calls()}
        return said

    def body(self) -> dict[str, Any]:
        """The answer as the API shows it."""
        choice = {"index": 0, "message": self.message(), "finish_reason": self.finish, "logprobs": self._logprobs()}
        return head(self.name, "chat.completion") | {"choices": [choice], "usage": usage_of(self)}

    def chunks(self, *, usage: bool) -> Iterator[bytes]:
        """What of a stream follows its `beginning`; with `usage`, the tokens are counted at its end."""
        own = head(self.name, "chat.completion.chunk")
        delta = {key: value for key, value in self.message().items() if value}
        delta.pop("role")
        if self.calls:
            delta["tool_calls"] = [{"index": index} | call for index, call in enumerate(self._calls())]
        nothing_yet = {"usage": None} if usage else {}
        yield event(own | {"choices": [_piece(delta, logprobs=self._logprobs())]} | nothing_yet)
        yield event(own | {"choices": [_piece({}, self.finish)]} | nothing_yet)
        if usage:
            yield event(own | {"choices": [], "usage": usage_of(self)})
        yield END_OF_STREAM

    def _calls(self) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{self.name.removeprefix('chatcmpl-')}_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for number, call in enumerate(self.calls)
        ]

    def _logprobs(self) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        return {"content": [_token(*one) for one in self.logprobs], "refusal": None}


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


def beginning(name: str) -> bytes:
    """The first chunk of a stream, which says who speaks."""
    said = _piece({"role": "assistant", "content": ""})
    return event(head(name, "chat.completion.chunk") | {"choices": [said]})


def broken(body: dict[str, Any]) -> bytes:
    """The last piece of a stream that comes to nothing. `body`: the error as the API shows it."""
    return event(body)


def _piece(
    delta: dict[str, Any], finish: Finish | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}


def _token(text: str, logprob: float) -> dict[str, Any]:
    """Bytes are told where the token is text of its own, and not a part of a character."""
    whole = None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": whole, "top_logprobs": []}


def event(body: dict[str, Any]) -> bytes:
    """A piece of a stream."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"
