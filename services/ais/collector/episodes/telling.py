"""What of an answer can be told while it is sampled: what it says whatever is sampled next. Pure.

A text that might be the beginning of a stop, or of a call of a tool, waits until it is clear whether it is one; so does
white space before it, which no answer with a call has. What waits to the end is told with that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ais.collector.environments.tool_calls import OPENING
from ais.collector.judging.harness.answers import Piece
from ais.collector.prompts.growing import GrowingText
from ais.collector.prompts.tokenizer import PolicyTokenizer
from ais.collector.replicas.progress import SampledTokens


class Telling:
    """One answer, as far as it has been sampled."""

    def __init__(
        self, tokenizer: PolicyTokenizer, stops: Sequence[str], *, may_call: bool, wants_logprobs: bool
    ) -> None:
        """`may_call`: whether calls of tools are told apart from text."""
        self._tokenizer, self._wants_logprobs, self._may_call = tokenizer, wants_logprobs, may_call
        self._ends = (*stops, OPENING) if may_call else tuple(stops)
        self._text = GrowingText(tokenizer.decode_response, tokenizer.byte_tokens)
        self._told = 0
        """Characters."""
        self._waiting: list[tuple[int, float]] = []
        """Tokens that are not told yet, and their log-probs."""
        self._sampled = self._tokens_told = 0
        self._places: deque[tuple[int, int]] = deque()
        """How many tokens say how many characters, for those that end with one."""

    def more(self, sampled: SampledTokens) -> Piece:
        """What can be told now, with the tokens that say nothing else."""
        self._text.grown(sampled.token_ids)
        self._waiting += zip(sampled.token_ids, sampled.logprobs, strict=True)
        self._sampled += len(sampled.token_ids)
        if self._text.is_whole:
            self._places.append((self._sampled, len(self._text.shown)))
        begin, self._told = self._told, self._certain()
        certain = self._tokens_told
        while self._places and self._places[0][1] <= self._told:
            certain, _ = self._places.popleft()
        new, self._waiting = self._waiting[: certain - self._tokens_told], self._waiting[certain - self._tokens_told :]
        self._tokens_told = certain
        return Piece(
            self._text.shown[begin : self._told],
            [token for token, _ in new],
            [(self._tokenizer.text_of(token), logprob) for token, logprob in new] if self._wants_logprobs else None,
        )

    def is_begun_by(self, text: str, tokens: int) -> bool:
        """Whether an answer of that text and so many tokens begins with what was told."""
        return text.startswith(self._text.shown[: self._told]) and self._tokens_told <= tokens

    def _certain(self) -> int:
        """Characters that are told or can be."""
        text, begin = self._text.shown, self._told
        end = min((_begins(text, one, begin) for one in self._ends), default=len(text))
        return begin + len(text[begin:end].rstrip()) if self._may_call else end


def _begins(text: str, end: str, begin: int) -> int:
    """Where from `begin` on the `end` begins, or may begin; the text's length: nowhere."""
    if (place := text.find(end, begin)) >= 0:
        return place
    most = min(len(end) - 1, len(text) - begin)
    return len(text) - next((length for length in range(most, 0, -1) if text.endswith(end[:length])), 0)
