"""Whether an engine may take a request. Pure: every engine asks before it does anything else."""

from __future__ import annotations

from dataclasses import dataclass

from ais.rollout.engine import EngineFullError, GenerationRequest, InvalidRequestError

MOST_STOP_TOKENS = 16
"""Stop tokens of one request."""
RETRY_AFTER_SECONDS = 0.5
"""When a caller that found the queue full should come back: about the time of a small model's short answers."""


@dataclass(frozen=True)
class Limits:
    """What an engine can hold."""

    vocab_size: int
    max_model_len: int
    """Longest prompt plus response, in tokens."""
    room: int
    """Sequences that may run or wait together."""
    lowest_temperature: float = 0.0
    """Lowest one above 0 (greedy) that the engine samples with as it is asked to."""

    def check(self, request: GenerationRequest, outstanding: int) -> None:
        """`outstanding` sequences run or wait already. Raises InvalidRequestError or EngineFullError."""
        prompt, samples = request.prompt_token_ids, request.samples
        stops = request.sampling.stop_token_ids
        if not 1 <= len(prompt) < self.max_model_len:
            raise InvalidRequestError(
                "prompt_token_ids", f"expected 1 to {self.max_model_len - 1} tokens, got {len(prompt)}"
            )
        vocabulary = range(self.vocab_size)
        for field, tokens in (("prompt_token_ids", prompt), ("sampling.stop_token_ids", stops)):
            if outside := [token for token in tokens if token not in vocabulary]:
                raise InvalidRequestError(
                    field, f"token id {outside[0]} is outside the vocabulary of {self.vocab_size}"
                )
        if len(stops) > MOST_STOP_TOKENS:
            raise InvalidRequestError("sampling.stop_token_ids", f"expected up to {MOST_STOP_TOKENS}, got {len(stops)}")
        if 0.0 < (temperature := request.sampling.temperature) < self.lowest_temperature:
            raise InvalidRequestError(
                "sampling.temperature", f"expected 0 (greedy) or at least {self.lowest_temperature}, got {temperature}"
            )
        if not 1 <= samples <= self.room:
            raise InvalidRequestError("samples", f"expected 1 to {self.room}, got {samples}")
        if outstanding + samples > self.room:
            raise EngineFullError(
                f"{outstanding} sequences are running or waiting, there is room for {self.room}", RETRY_AFTER_SECONDS
            )
