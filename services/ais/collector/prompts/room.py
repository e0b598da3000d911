"""Whether a question, as a prompt, leaves the replicas room for an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ais.collector.prompts.prompts import Question
from ais.collector.prompts.tokenizer import PolicyTokenizer

SPARE_TOKENS = 16
"""A text is taken to have at most one token for each byte and this many more, besides those of the chat template."""


@dataclass(frozen=True)
class PromptRoom:
    """The tokens that a prompt may have."""

    tokenizer: PolicyTokenizer
    context: int | None
    """Longest prompt plus response of a replica, tokens; None: not known here, the replicas will say."""

    def fits(self, question: Question) -> bool:
        """Whether at least one token of an answer fits behind the prompt."""
        if self.context is None:
            return True
        if isinstance(question, str) and len(question.encode()) + self._overhead < self.context:
            return True
        return len(self.tokenizer.encode_prompt(question)) < self.context

    @cached_property
    def _overhead(self) -> int:
        return len(self.tokenizer.encode_prompt("")) + SPARE_TOKENS


def context_of(model: Path, max_model_len: int | None) -> int | None:
    """The shorter one of the model's own context and `max_model_len`; None where neither is known."""
    try:
        own = json.loads((model / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        own = None  # the replicas, which need the file, say what is wrong with it
    known = [length for length in (own, max_model_len) if isinstance(length, int)]
    return min(known, default=None)
