"""What a rollout replica asks of the engine that samples for it.

The protocol knows tokens, log-probs and policy versions, nothing of gRPC, HTTP or the library that computes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ais.contracts.routing.routed import RoutedExperts
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import PolicySpan
from ais.contracts.truncation.kept import KeptTokens
from ais.contracts.weights.forms import BF16


class InvalidRequestError(ValueError):
    """A request no engine like this one could serve. `field` says where, `reason` what was expected and what came."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class EngineFullError(RuntimeError):
    """The waiting queue has no room for the request. Try another replica, or this one later."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class EngineDrainingError(RuntimeError):
    """The engine is about to stop: it takes no new work, or hands back what it could not finish in time."""


class EngineFailedError(RuntimeError):
    """The engine broke and cannot go on; the process should end and be started again."""


class SamplingFailedError(RuntimeError):
    """The policy gave no distribution for one sample, such as NaN logits. Its call fails; the engine goes on."""


class RollbackFailedError(EngineFailedError):
    """New weights were refused after they had replaced the old ones, and the old ones could not be put back."""


class ModelUnsupportedError(ValueError):
    """The model directory cannot be served. The message says what is missing or not supported."""


@dataclass(frozen=True)
class GenerationRequest:
    """`samples` responses to one prompt."""

    group_id: str
    prompt_token_ids: tuple[int, ...]
    samples: int
    sampling: SamplingParameters
    for_training: bool = False
    """Whether completions have what training needs: what truncated sampling left to draw from, and routed experts."""


@dataclass(frozen=True)
class Completion:
    """One finished response: `token_ids` int32 [T], `logprobs` float32 [T], T >= 1; times count from the request."""

    index: int
    token_ids: np.ndarray
    logprobs: np.ndarray
    spans: tuple[PolicySpan, ...]
    finish_reason: FinishReason
    first_token_seconds: float
    total_seconds: float
    queued_seconds: float = 0.0
    """Until it was begun, a part of `first_token_seconds`. For traces alone."""
    kept: KeptTokens | None = None
    """What truncated sampling left to draw from. None: it was not truncated, the request does not ask for it, or the
    engine cannot tell."""
    routed: RoutedExperts | None = None
    """The experts that read each token of prompt and response but the last; None where they are not recorded, or the
    request does not ask for them."""


@dataclass(frozen=True)
class Sampled:
    """Tokens of one response that is not finished, sampled since those told before, and the log-prob of each."""

    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class EngineDescription:
    """What the engine is and which policy it serves now."""

    engine: str
    engine_version: str
    model_type: str
    vocab_size: int
    max_model_len: int
    """Longest prompt plus response, in tokens."""
    parameter_count: int
    precision: Precision
    version: int
    digest: str
    forms: frozenset[str] = frozenset((BF16,))
    """Form of the bytes that `swap_weights` takes: `ais.contracts.weights.forms`."""


@dataclass(frozen=True)
class EngineLoad:
    """Sequences that are being sampled, that wait, and that can be sampled at once."""

    running_sequences: int
    waiting_sequences: int
    slots: int


@dataclass(frozen=True)
class CacheRange:
    """What a key-value cache of few bits has to hold of a version's keys, or of its values."""

    maximum: float
    """Largest magnitude on the calibration's sequences."""
    clipped_share: float
    """Share of the magnitudes that the scale clips: that of each sequence when the others alone give the scale. NaN:
    there was one sequence."""


@dataclass(frozen=True)
class WeightSwap:
    """What a swap cost."""

    staging_seconds: float
    """Reading, verifying and quantising, beside generation that goes on."""
    paused_seconds: float
    """Time generation stood still."""
    probe_gap: float | None
    """Mean |log-prob difference| to the trainer on the snapshot's probe, nats a token; None: it carries no probe."""
    probe_allowed: float | None = None
    """The gap that this probe allows."""
    cache: Mapping[str, CacheRange] | None = None
    """What `keys` and `values` are like; None: the cache is not scaled by layers."""


class EngineObserver(Protocol):
    """What an engine tells whoever measures it. Called from any thread; must be quick."""

    def decode_step(self, seconds: float, tokens: int) -> None:
        """One decode step sampled one token for each of `tokens` sequences."""


class Engine(Protocol):
    """Samples trajectories. One engine per process."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Completion]:
        """Each sample as soon as it is finished, in any order. Closing the generator frees its slots.

        The first step raises InvalidRequestError or EngineFullError; any step SamplingFailedError, EngineDrainingError
        or EngineFailedError.
        """
        ...

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Sampled | Completion]:
        """As `generate`, with the tokens of each sample as they come. Those sampled last come with its completion, and
        an engine may give no others."""
        ...

    async def swap_weights(self, version: int, digest: str, files: Sequence[Path]) -> WeightSwap:
        """Serves the safetensors `files` from the next decode step on. Sequences in flight go on.

        Raises WeightsRefusedError, and then goes on with the old weights, unless every name, shape, dtype and value
        is right; with the field `probe` unless the new weights give finite log-probs that agree with those of the
        snapshot's probe (`ais.rollout.engines.probe` judges). An engine that must replace the old weights before it
        can score with the new puts the old ones back; RollbackFailedError when it cannot, and then it has failed as a
        whole: `on_failure` is told.
        """
        ...

    def describe(self) -> EngineDescription: ...

    def load(self) -> EngineLoad: ...

    def on_failure(self, callback: Callable[[EngineFailedError], None]) -> None:
        """`callback` is called in the event loop when the engine has broken or was closed."""
        ...

    async def drain(self, deadline_seconds: float) -> None:
        """Refuses new work from now on; returns when running work is finished, or at the deadline.

        What is left at the deadline is handed back: it fails with EngineDrainingError.
        """
        ...

    async def close(self) -> None:
        """Stops. What still runs fails with EngineFailedError."""
        ...
