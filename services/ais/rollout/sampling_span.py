"""The span of one generation call at its replica: how long it waited, read its prompt and sampled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from ais.contracts.v1 import rollout_pb2
from ais.rollout.engine import Completion
from ais.runtime.tracing.spans import TRACEPARENT, is_on, record, span


class SamplingSpan:
    """Where the time of a call went, by what is known of its samples."""

    def __init__(self) -> None:
        self._begun = time.time()
        self._samples = self._tokens = 0
        self._queued = self._first_token = float("inf")
        """Seconds from arrival: of the sample that was the first to come so far."""
        self._last_token = 0.0

    def takes(self, completion: Completion) -> None:
        """One sample is finished."""
        self._samples += 1
        self._tokens += len(completion.token_ids)
        self._queued = min(self._queued, completion.queued_seconds)
        self._first_token = min(self._first_token, completion.first_token_seconds)
        self._last_token = max(self._last_token, completion.total_seconds)

    def tell(self, parent: str) -> None:
        """Records the parts, as children of the call's span."""
        if self._samples == 0:
            return
        begun = self._begun
        record("wait for a slot", begun, begun + self._queued, parent)
        record("read the prompt", begun + self._queued, begun + self._first_token, parent)
        first, last = begun + self._first_token, begun + self._last_token
        record("sample", first, last, parent, samples=self._samples, tokens=self._tokens)


@contextmanager
def sampling_span(
    request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
) -> Iterator[SamplingSpan]:
    """A child of the caller's span, where its metadata name one."""
    parts = SamplingSpan()
    if not is_on():
        yield parts
        return
    # A name that is refused may be anything, of any length.
    with span("generate", "server", _caller(context), group=request.group_id[:200], samples=request.samples) as call:
        try:
            yield parts
        finally:
            parts.tell(call.traceparent)


def _caller(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    values = (value for name, value in context.invocation_metadata() or () if name == TRACEPARENT)
    return str(next(values, ""))
