"""OpenAI's older completions: an answer to a raw prompt, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ais.collector.judging.harness.answers import END_OF_STREAM, Completed, Piece, event, head, usage_of

KIND = "text_completion"


@dataclass(frozen=True)
class RawCompleted(Completed):
    """An answer of the policy to a raw prompt."""

    def body(self) -> dict[str, Any]:
        choice = _choice(Piece(self.text, self.token_ids, self.logprobs), self.finish)
        return head(self.name, KIND) | {"choices": [choice], "usage": usage_of(self)}


class RawChunks:
    """Writes the stream of an answer, in pieces of the API."""

    def __init__(self, name: str, *, usage: bool) -> None:
        """`usage`: whether tokens are counted at its end."""
        self._head = head(name, KIND)
        self._usage = usage
        self._written = 0
        """Characters of the tokens told so far."""

    def beginning(self) -> bytes:
        """The first one, which says nothing yet."""
        return self._chunk(Piece())

    def more(self, piece: Piece) -> bytes:
        """The next one."""
        chunk = self._chunk(piece)
        self._written += sum(len(text) for text, _ in piece.logprobs or ())
        return chunk

    def ending(self, completed: Completed, rest: Piece) -> Iterator[bytes]:
        """The last ones; `rest`: what has not been told of the answer."""
        if rest:
            yield self._chunk(rest)
        yield self._chunk(Piece(), completed.finish)
        if self._usage:
            yield event(self._head | {"choices": [], "usage": usage_of(completed)})
        yield END_OF_STREAM

    def _chunk(self, piece: Piece, finish: str | None = None) -> bytes:
        choices = [_choice(piece, finish, self._written)]
        return event(self._head | {"choices": choices} | ({"usage": None} if self._usage else {}))


def _choice(piece: Piece, finish: str | None, written: int = 0) -> dict[str, Any]:
    logprobs = _logprobs(piece.logprobs, written) if piece.logprobs else None
    choice = {"index": 0, "text": piece.text, "finish_reason": finish, "logprobs": logprobs}
    return choice | ({"token_ids": list(piece.token_ids)} if piece.token_ids else {})


def _logprobs(logprobs: Sequence[tuple[str, float]], length: int) -> dict[str, Any]:
    offsets = list[int]()
    for text, _ in logprobs:
        offsets.append(length)
        length += len(text)
    return {
        "tokens": [text for text, _ in logprobs],
        "token_logprobs": [logprob for _, logprob in logprobs],
        "top_logprobs": None,
        "text_offset": offsets,
    }
