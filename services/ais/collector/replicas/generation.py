"""One generation call: a prompt to a replica, a complete validated group back, or one clear error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import grpc
import numpy as np

from ais.collector.replicas.answers import Question
from ais.collector.replicas.progress import SampledTokens, Told
from ais.contracts.handing_back import is_handed_back
from ais.contracts.registry import REPLICA
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import (
    TOKEN_DTYPE,
    MalformedRecordError,
    Trajectory,
    TrajectoryBounds,
    check_routed,
    decode_trajectory,
)
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.runtime.network.channel import open_channel
from ais.runtime.security.keyring import NOBODY, Credential
from ais.runtime.text import printable
from ais.runtime.tracing.spans import carried, span

LONGEST_RESPONSE = 1 << 24
"""Bytes of a response's tokens, where the caller does not say how many there may be."""
TOKEN_BYTES = 16
"""Bytes of a message for each token: its id and log-prob, and as much again for spans that end often."""
KEPT_BYTES = 4
"""Bytes of a message for each token that truncated sampling kept."""
MOST_KEPT = 1024
"""Tokens kept for each one, on average over a response, where top_k does not say how many there may be."""
LONGEST_MESSAGE = 2**31 - 1
"""Bytes; gRPC knows no longer one."""
ENVELOPE_BYTES = 1 << 18
"""Bytes of a message beside its tokens: ids, sampling parameters, precision, digests."""

KEEPALIVE_SECONDS = 10.0
"""While a call waits and nothing comes for this long, the connection is asked for a sign of life. A replica takes five
times as many such questions."""
KEEPALIVE_ANSWER_SECONDS = 5.0
"""Without an answer by then the calls fail: the replica vanished without closing the connection."""


_Call = grpc.aio.UnaryStreamCall[rollout_pb2.GenerateRequest, Any]


class Cause(StrEnum):
    """Why a call came to nothing; it decides whom that speaks against."""

    FAILED = "failed"
    """The replica broke, cannot be reached, or answered something else than it was asked."""
    BUSY = "busy"
    """The replica is full, or did not finish by the deadline. That speaks neither against it nor against the group."""
    REFUSED = "refused"
    """The replica says that it can never serve this request. Another one may."""
    LEAVING = "leaving"
    """The replica is about to leave and hands the group back. Nothing is wrong."""
    SPREAD = "spread"
    """The turns of an episode were sampled by versions that are too far apart. Nothing is wrong."""


class GenerationError(RuntimeError):
    """A group came to nothing. `reason` is the gRPC status or `malformed`; `field`: what was malformed.

    The message is printable and bounded, although a replica's words stand in it.
    """

    def __init__(self, reason: str, message: str, cause: Cause = Cause.FAILED, field: str | None = None) -> None:
        super().__init__(printable(message))
        self.reason = reason
        self.cause = cause
        self.field = field


class GenerationClient:
    """Calls to one replica, over one channel."""

    def __init__(
        self,
        address: str,
        use_proxy: bool = False,
        longest_response: int = LONGEST_RESPONSE,
        credential: Credential = NOBODY,
    ) -> None:
        """`longest_response`: bytes of its tokens; gRPC refuses more before it has read or decompressed it."""
        self._credential = credential
        options = _channel_options(longest_response)
        self._channel = open_channel(address, REPLICA, credential.certificates, use_proxy, options)
        self._stub = rollout_pb2_grpc.RolloutStub(self._channel)  # type: ignore[no-untyped-call]
        self._calls: set[_Call] = set()
        self._abandoned: str | None = None
        self._held = 0

    @property
    def calls(self) -> int:
        """Calls under way, and those who hold the connection between calls."""
        return len(self._calls) + self._held

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the connection while no call of an episode is under way, between two turns."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def abandon(self, reason: str) -> None:
        """Ends the calls under way; they, and any after them, raise GenerationError with `reason`."""
        self._abandoned = reason
        for call in self._calls:
            call.cancel()

    async def close(self) -> None:
        """Whoever calls it afterwards gets GenerationError."""
        self._abandoned = self._abandoned or "the connection to the replica was closed"
        await self._channel.close()

    async def describe(self, deadline_seconds: float) -> rollout_pb2.DescribeResponse:
        """What the replica says it is. Raises GenerationError."""
        try:
            answer: rollout_pb2.DescribeResponse = await self._stub.Describe(
                rollout_pb2.DescribeRequest(), timeout=deadline_seconds, metadata=self._credential.metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        return answer

    async def generate(
        self,
        group_id: str,
        prompt_token_ids: Sequence[int],
        samples: int,
        sampling: SamplingParameters,
        bounds: TrajectoryBounds,
        deadline_seconds: float,
        on_arrival: Callable[[], object] = lambda: None,
        for_training: bool = False,
    ) -> tuple[Trajectory, ...]:
        """All samples, in index order; `on_arrival` is called for each as it comes. With `for_training` they have what
        truncated sampling left to draw from and the experts of a mixture. Raises GenerationError.

        The first answer that was not asked for ends the call.
        """
        self._check_open()
        question = Question(group_id, samples, sampling)
        with span("generate", "client", group=group_id, samples=samples, prompt_tokens=len(prompt_token_ids)):
            request = _request(question, prompt_token_ids, for_training)
            return await self._generated(question, request, bounds, deadline_seconds, on_arrival)

    async def _generated(
        self,
        question: Question,
        request: rollout_pb2.GenerateRequest,
        bounds: TrajectoryBounds,
        deadline_seconds: float,
        on_arrival: Callable[[], object],
    ) -> tuple[Trajectory, ...]:
        """`generate` within its span, which the replica is told."""
        metadata = (*self._credential.metadata(), *carried().items())
        call = self._stub.Generate(request, timeout=deadline_seconds, metadata=metadata)
        received: dict[int, Trajectory] = {}
        prompt = np.frombuffer(request.prompt_token_ids, dtype=TOKEN_DTYPE)
        with self._under_way(call):
            async for message in call:
                if message is None:  # bytes that are no message
                    raise MalformedRecordError("message", "is not a Trajectory")
                trajectory = decode_trajectory(message, bounds)
                check_routed(trajectory, prompt)
                question.check(trajectory, received)
                received[trajectory.sample_index] = trajectory
                on_arrival()
        if len(received) < question.samples:
            raise GenerationError(
                "malformed", f"asked for {question.samples} samples, got {len(received)}", field="samples"
            )
        return tuple(received[index] for index in range(question.samples))

    async def stream(
        self,
        group_id: str,
        prompt_token_ids: Sequence[int],
        sampling: SamplingParameters,
        bounds: TrajectoryBounds,
        deadline_seconds: float,
        on_sampled: Callable[[SampledTokens], object],
        for_training: bool = False,
    ) -> Trajectory:
        """One response, as `generate` gives it; `on_sampled` is told its tokens as they are sampled, the last ones left
        out.

        A replica of an earlier release gives the whole alone. Raises GenerationError.
        """
        self._check_open()
        question, progress = Question(group_id, 1, sampling), Told(bounds.vocab_size)
        with span("generate", "client", group=group_id, samples=1, prompt_tokens=len(prompt_token_ids)):
            request = _request(question, prompt_token_ids, for_training)
            metadata = (*self._credential.metadata(), *carried().items())
            call = self._stub.Stream(request, timeout=deadline_seconds, metadata=metadata)
            try:
                with self._under_way(call):
                    async for message in call:
                        if message is None:  # bytes that are no message
                            raise MalformedRecordError("message", "is not a Progress")
                        if message.HasField("finished"):
                            trajectory = decode_trajectory(message.finished, bounds)
                            check_routed(trajectory, np.asarray(prompt_token_ids, dtype=TOKEN_DTYPE))
                            question.check(trajectory, ())
                            progress.check(trajectory)
                            return trajectory
                        if (sampled := progress.more(message, sampling.max_new_tokens)) is not None:
                            on_sampled(sampled)
                raise GenerationError("malformed", "asked for a response, got none", field="samples")
            except GenerationError as error:
                if error.reason != "unimplemented" or progress.count:
                    raise
            (trajectory,) = await self._generated(question, request, bounds, deadline_seconds, lambda: None)
            return trajectory

    @contextmanager
    def _under_way(self, call: _Call) -> Iterator[None]:
        """Ends the call with the context. What goes wrong in it is GenerationError."""
        self._calls.add(call)
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        except MalformedRecordError as error:
            raise GenerationError("malformed", str(error), field=error.field) from error
        except asyncio.CancelledError:
            if self._abandoned is None or _is_cancelled():
                raise
            raise GenerationError("unavailable", self._abandoned) from None
        finally:
            call.cancel()
            self._calls.discard(call)

    def _check_open(self) -> None:
        if self._abandoned is not None:
            raise GenerationError("unavailable", self._abandoned)


def response_bytes(sampling: SamplingParameters, routed_bytes: int = 0) -> int:
    """Most that the tokens of a response take in a message, with so many for the experts that read them and the
    prompt."""
    kept = 1 + min(sampling.top_k or MOST_KEPT, MOST_KEPT) if sampling.truncated else 0
    return sampling.max_new_tokens * (TOKEN_BYTES + KEPT_BYTES * kept) + routed_bytes


def _request(
    question: Question, prompt_token_ids: Sequence[int], for_training: bool = False
) -> rollout_pb2.GenerateRequest:
    return rollout_pb2.GenerateRequest(
        group_id=question.group_id,
        prompt_token_ids=np.asarray(prompt_token_ids, dtype=TOKEN_DTYPE).tobytes(),
        samples=question.samples,
        sampling=question.sampling.to_proto(),
        for_training=for_training,
    )


def _is_cancelled() -> bool:
    """Whether the task itself is to end, and not only the call it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failure(error: grpc.aio.AioRpcError) -> GenerationError:
    status, words = error.code(), error.details() or error.code().name
    reason = status.name.lower()
    if is_handed_back(error.trailing_metadata()):
        return GenerationError(reason, words, Cause.LEAVING)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in words:  # our own end of the channel
        return GenerationError("malformed", words, field="message")
    if status in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        words = f"does not accept our token ({words}): security.tokens must hold the same tokens there"
    if status in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return GenerationError(reason, words, Cause.BUSY)
    return GenerationError(reason, words, Cause.REFUSED if status is grpc.StatusCode.INVALID_ARGUMENT else Cause.FAILED)


def _channel_options(longest_response: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", min(ENVELOPE_BYTES + longest_response, LONGEST_MESSAGE)),
        ("grpc.max_metadata_size", 16_384),
        ("grpc.keepalive_time_ms", round(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", round(KEEPALIVE_ANSWER_SECONDS * 1000)),
        # This, a minute by default, is what really ends a connection whose ping is not answered.
        ("grpc.http2.ping_timeout_ms", round(KEEPALIVE_ANSWER_SECONDS * 1000)),
    ]
