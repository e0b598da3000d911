"""One generation call: a prompt to a replica, a complete validated group back, or one clear error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc
import numpy as np

from ais.contracts.handing_back import is_handed_back
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import (
    TOKEN_DTYPE,
    MalformedRecordError,
    Trajectory,
    TrajectoryBounds,
    decode_trajectory,
)
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.runtime.channel import open_channel

LARGEST_MESSAGE_BYTES = 64 * 1024 * 1024
"""One trajectory of eight million tokens: anything larger is not a trajectory."""

KEEPALIVE_SECONDS = 10.0
"""A connection on which nothing came for this long, while a call waits, is asked for a sign of life. A replica takes
twice as many."""
KEEPALIVE_ANSWER_SECONDS = 5.0
"""Without an answer by then its calls have failed: the replica vanished without closing the connection."""


class GenerationError(RuntimeError):
    """A group came to nothing. `reason` is the gRPC status or `malformed`; `permanent`: no replica would accept it;
    `handed_back`: nothing is wrong, the replica is about to leave."""

    def __init__(
        self,
        reason: str,
        message: str,
        permanent: bool = False,
        field: str | None = None,
        handed_back: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.permanent = permanent
        self.field = field
        self.handed_back = handed_back


class GenerationClient:
    """Calls to one replica, over one channel."""

    def __init__(self, address: str, use_proxy: bool = False) -> None:
        self._channel = open_channel(address, use_proxy, _channel_options())
        self._stub = rollout_pb2_grpc.RolloutStub(self._channel)  # type: ignore[no-untyped-call]
        self.calls = 0
        """Calls under way."""

    async def close(self) -> None:
        await self._channel.close()

    async def generate(
        self,
        group_id: str,
        prompt_token_ids: Sequence[int],
        samples: int,
        sampling: SamplingParameters,
        bounds: TrajectoryBounds,
        deadline_seconds: float,
        on_arrival: Callable[[], object] = lambda: None,
    ) -> tuple[Trajectory, ...]:
        """All samples, in index order; `on_arrival` is called for each as it comes. Raises GenerationError."""
        request = rollout_pb2.GenerateRequest(
            group_id=group_id,
            prompt_token_ids=np.asarray(prompt_token_ids, dtype=TOKEN_DTYPE).tobytes(),
            samples=samples,
            sampling=sampling.to_proto(),
        )
        received: dict[int, Trajectory] = {}
        self.calls += 1
        try:
            async for message in self._stub.Generate(request, timeout=deadline_seconds):
                trajectory = decode_trajectory(message, bounds)
                if trajectory.group_id != group_id or trajectory.sample_index in received:
                    raise MalformedRecordError(
                        "trajectory.sample_index", f"{trajectory.trajectory_id} was not asked for, or came twice"
                    )
                received[trajectory.sample_index] = trajectory
                on_arrival()
        except grpc.aio.AioRpcError as error:
            status = error.code()
            raise GenerationError(
                status.name.lower(),
                error.details() or status.name,
                permanent=status is grpc.StatusCode.INVALID_ARGUMENT,
                handed_back=is_handed_back(error.trailing_metadata()),
            ) from error
        except MalformedRecordError as error:
            raise GenerationError("malformed", str(error), field=error.field) from error
        finally:
            self.calls -= 1
        if sorted(received) != list(range(samples)):
            raise GenerationError("malformed", f"asked for {samples} samples, got {sorted(received)}", field="samples")
        return tuple(received[index] for index in range(samples))


def _channel_options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", round(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", round(KEEPALIVE_ANSWER_SECONDS * 1000)),
        # This, a minute by default, is what really ends a connection whose ping is not answered.
        ("grpc.http2.ping_timeout_ms", round(KEEPALIVE_ANSWER_SECONDS * 1000)),
    ]
