"""OpenAI's older completions: an answer to a raw prompt, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ais.collector.judging.harness.answers import END_OF_STREAM, Completed, event, head, usage_of

KIND = "text_completion"


@dataclass(frozen=True)
class RawCompleted(Completed):
    """An answer of the policy to a raw prompt."""

    def body(self) -> dict[str, Any]:
        choice = self._piece(self.text, self.finish) | {"logprobs": self._tokens(), "token_ids": list(self.token_ids)}
        return head(self.name, KIND) | {"choices": [choice], "usage": usage_of(self)}

    def chunks(self, *, usage: bool) -> Iterator[bytes]:
        own, nothing_yet = head(self.name, KIND), {"usage": None} if usage else {}
        told = self._piece(self.text, None) | {"logprobs": self._tokens(), "token_ids": list(self.token_ids)}
        yield event(own | {"choices": [told]} | nothing_yet)
        yield event(own | {"choices": [self._piece("", self.finish)]} | nothing_yet)
        if usage:
            yield event(own | {"choices": [], "usage": usage_of(self)})
        yield END_OF_STREAM

    def _piece(self, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}

    def _tokens(self) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        offsets, length = list[int](), 0
        for text, _ in self.logprobs:
            offsets.append(length)
            length += len(text)
        return {
            "tokens": [text for text, _ in self.logprobs],
            "token_logprobs": [logprob for _, logprob in self.logprobs],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def raw_beginning(name: str) -> bytes:
    """The first chunk of a stream, which says nothing yet."""
    return event(head(name, KIND) | {"choices": [{"index": 0, "text": "", "finish_reason": None, "logprobs": None}]})
