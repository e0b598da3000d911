"""Text of tokens that come one after another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

INCOMPLETE = "\ufffd"
"""What a decoder writes for the first bytes of a character."""
WINDOW = 64
"""Tokens that are decoded again with those that come; of more, the last few are enough."""
OVERLAP = 8
"""How many: a decoder that looks at what stands before a token, for a space or a character's first bytes, looks no
further."""


class GrowingText:
    """What is shown once stays: a character whose bytes are spread over several tokens is shown when the last of them
    has come."""

    def __init__(self, decode: Callable[[Sequence[int]], str], byte_tokens: Collection[int] = ()) -> None:
        """`byte_tokens`: those that stand for a byte each. Of several in a row, one that does not fit makes no
        characters of all, so they wait until the row is over."""
        self._decode, self._byte_tokens = decode, byte_tokens
        self._row: list[int] = []
        """Tokens that wait."""
        self._tokens: list[int] = []
        """The last ones."""
        self._shown = ""
        """What they say, as far as it is shown."""
        self.shown = ""
        self.is_whole = True
        """Whether all that came is shown."""

    def grown(self, token_ids: Sequence[int]) -> str:
        """What more there is to show after these tokens."""
        self._row += token_ids
        over = len(self._row)
        while over and self._row[over - 1] in self._byte_tokens:
            over -= 1
        self._tokens += self._row[:over]
        del self._row[:over]
        text = self._decode(self._tokens)
        whole = text.rstrip(INCOMPLETE)
        self.is_whole = not self._row and whole == text and whole.startswith(self._shown)
        if not whole.startswith(self._shown):
            return ""
        rest = whole[len(self._shown) :]
        self._shown = whole
        self.shown += rest
        if self.is_whole and len(self._tokens) > WINDOW:
            self._look_less_far_back()
        return rest

    def ended(self, token_ids: Sequence[int]) -> str:
        """What more there is to show, where these are all tokens of the text."""
        text = self._decode(token_ids)
        rest = text[len(self.shown) :] if text.startswith(self.shown) else ""
        self.shown = text
        return rest

    def _look_less_far_back(self) -> None:
        last = self._tokens[-OVERLAP:]
        text = self._decode(last)
        if text and self._shown.endswith(text):
            self._tokens, self._shown = last, text
