"""The server in front of the generation API: what listens, for how many, and how much each may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.rollout.generation_api import GenerationService
from ais.runtime.network.addresses import authority
from ais.runtime.process import UnavailableError
from ais.runtime.security.door import Door, refuse_without_door
from ais.runtime.security.grpc_door import GrpcDoor

SERVICE_NAME = rollout_pb2.DESCRIPTOR.services_by_name["Rollout"].full_name
KEEPALIVE_SECONDS = 20.0
"""A client that sends nothing for this long while one of its calls runs is pinged."""
KEEPALIVE_ANSWER_SECONDS = 10.0
"""A client that does not answer the ping by then has vanished: its calls are cancelled, which frees their slots."""
PINGS_APART_SECONDS = 2.0
"""Pings that come sooner after one another are abuse, and the third of them ends the connection. Our client pings every
ten seconds and waits five for the answer, so on a starved machine two pings may be read five seconds apart."""
STOP_GRACE_SECONDS = 0.5
"""Calls that still run after the engine has drained are cut after this."""


TOKEN_BYTES = 4
"""A prompt token in a request."""
REQUEST_ROOM_BYTES = 64 * 1024
"""Everything in a request but the prompt: names and sampling parameters."""
CALL_ROOM = 256
"""Calls beyond those the engine has room for: they are read and refused with a reason, and some are health checks."""
LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
"""One trajectory: eight million tokens."""
PENDING_CALLS = 16_384
"""Calls that have arrived and wait to be looked at. gRPC cancels the excess, without a reason: its own limits, from
1,000 on by chance and 3,000 for certain, are less than one burst of a large collector."""


@dataclass(frozen=True)
class ServerLimits:
    """How much callers may ask of the server. What exceeds a limit is refused before memory is taken for it."""

    message_bytes: int = 1024 * 1024
    """Longest request. RESOURCE_EXHAUSTED."""
    calls: int = 1024
    """Calls at once, of all callers. RESOURCE_EXHAUSTED."""
    connections: int = 4096
    """Connections at once, of all callers. The next one is closed at once: UNAVAILABLE. gRPC takes no idle one away
    for it, so there is room for many idle ones."""
    metadata_bytes: int = 16 * 1024
    """All metadata of a call. RESOURCE_EXHAUSTED."""
    handshake_seconds: float = 10.0
    """A connection that has not begun to speak HTTP/2 by then is closed."""
    idle_seconds: float = 60.0
    """A connection without a call for this long is closed. A client opens another one by itself with its next call."""

    @classmethod
    def of_engine(cls, max_model_len: int, room: int) -> ServerLimits:
        """Those of a replica with `max_model_len` tokens of context and room for `room` sequences."""
        return cls(message_bytes=TOKEN_BYTES * max_model_len + REQUEST_ROOM_BYTES, calls=room + CALL_ROOM)

    def options(self) -> list[tuple[str, int]]:
        """The same in gRPC's terms."""
        return [
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_allowed_incoming_connections", self.connections),
            # Between the two limits gRPC refuses by chance: one limit, so that a caller learns it at once.
            ("grpc.max_metadata_size", self.metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.metadata_bytes),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_seconds * 1000)),
            ("grpc.max_connection_idle_ms", round(self.idle_seconds * 1000)),
        ]


_OPTIONS = [
    ("grpc.max_send_message_length", LARGEST_ANSWER_BYTES),
    ("grpc.server.max_pending_requests", PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
    ("grpc.max_concurrent_streams", PENDING_CALLS),
    ("grpc.so_reuseport", 0),  # a second replica on the same port is an error, not a silent sharing of calls
    # Clients may ping as often as our own does; without this the server takes it for abuse and cuts the connection.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", round(PINGS_APART_SECONDS * 1000)),
    ("grpc.keepalive_permit_without_calls", 1),
]


class GenerationServer:
    """The listening server: generation, health and reflection."""

    def __init__(self, checks: health.aio.HealthServicer, port: int) -> None:
        self._checks = checks
        self.port = port

    async def refuse_new_calls(self) -> None:
        """Health turns to NOT_SERVING for good."""
        await self._checks.enter_graceful_shutdown()


@asynccontextmanager
async def serve_generation(
    service: GenerationService, host: str, port: int, limits: ServerLimits, door: Door | None = None
) -> AsyncIterator[GenerationServer]:
    """Serves while the context is open. Without a door only this machine may reach it. Raises UnavailableError when the
    port is taken."""
    refuse_without_door(host, door)
    server = grpc.aio.server(
        options=[*_OPTIONS, *limits.options(), *_keepalive()],
        maximum_concurrent_rpcs=limits.calls,
        interceptors=() if door is None else (GrpcDoor(door),),
    )
    checks = health.aio.HealthServicer()
    rollout_pb2_grpc.add_RolloutServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = authority(host, port)
    try:
        if door and door.certificates:
            bound = server.add_secure_port(address, door.certificates.grpc_server())
        else:
            bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise UnavailableError(
            f"cannot listen on {address} for gRPC: {error}. Set another port, or 0 for a free one"
        ) from error
    await server.start()
    for name in ("", SERVICE_NAME):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield GenerationServer(checks, bound)
    finally:
        await server.stop(STOP_GRACE_SECONDS)


def _keepalive() -> list[tuple[str, int]]:
    answer = round(KEEPALIVE_ANSWER_SECONDS * 1000)
    return [
        ("grpc.keepalive_time_ms", round(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", answer),
        ("grpc.http2.ping_timeout_ms", answer),  # what really ends the connection
    ]
