"""What a verifier is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ais.collector.prompts.prompts import Prompt
from ais.contracts.sampling import FinishReason


@dataclass(frozen=True)
class Response:
    """A response of the policy, as text."""

    text: str
    """Without special tokens and without the stop token."""
    finish_reason: FinishReason = FinishReason.STOP
    tokens: int = 0
    """Tokens sampled, the stop token included."""
    most_tokens: int = 0
    """Tokens at which it would have been cut off: collector.sampling.max_new_tokens."""


Verdict = float | Mapping[str, float]
"""A score, or several with names of their own."""

Verifier = Callable[[Response, Prompt], Verdict]
"""Judges a response to a prompt. It may raise whatever it likes: that is a failed judgement."""
