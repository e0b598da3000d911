"""A replica's weights path in a process of its own, with an engine that takes every version and samples nothing.

    python -m benchmarks.support.weights_replica replica REDIS_URL RUN NAME STAGING SHARED [SECRETS]
    python -m benchmarks.support.weights_replica plain PORT_FILE FILE    # discards an upload

The first has the real control API; SHARED is its `rollout.shared_directory`, empty for none. Either one runs until its
standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry

from ais.contracts.keys import Keys
from ais.contracts.registry import HEARTBEAT_SECONDS, ReplicaRecord, ReplicaRegistry
from ais.contracts.sampling import Precision
from ais.rollout.engine import EngineDescription, WeightSwap
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.settings import RolloutSettings
from ais.rollout.weights.control_api import control_application
from ais.rollout.weights.intake import WeightIntake
from ais.rollout.weights.relay import Relay
from ais.runtime.network.addresses import http_url
from ais.runtime.network.http import serve
from ais.runtime.network.redis import connect
from ais.runtime.security.roles import Role
from ais.runtime.settings import RedisSettings
from benchmarks.support.access import keyring_of

PARAMETERS = 1 << 31
"""What it says of its model: room for any version here."""


class TakingEngine:
    """What `WeightIntake` asks of an engine. The files are staged and verified by then."""

    def __init__(self) -> None:
        self.version, self.digest = 0, "blake3:none"

    def describe(self) -> EngineDescription:
        return EngineDescription(
            engine="benchmark", engine_version="0", model_type="qwen3", vocab_size=1, max_model_len=1,
            parameter_count=PARAMETERS, precision=Precision(), version=self.version, digest=self.digest,
        )  # fmt: skip

    async def swap_weights(self, version: int, digest: str, _files: Sequence[Path]) -> WeightSwap:
        self.version, self.digest = version, digest
        return WeightSwap(0.0, 0.0, None)


async def replica(url: str, run: str, name: str, staging: Path, shared: Path | None, secrets: Path | None) -> None:
    door = None if secrets is None else keyring_of(secrets).door(*Role)
    redis = await connect(RedisSettings(url=url))
    registry, metrics, engine, changed = (
        ReplicaRegistry(redis, Keys(run)),
        CollectorRegistry(),
        TakingEngine(),
        asyncio.Event(),
    )
    measured = RolloutMetrics(metrics)
    relay = Relay(measured, registry.urls)
    intake = WeightIntake(
        engine,  # type: ignore[arg-type]
        staging,
        measured,
        applied=changed.set,
        threads=RolloutSettings().unpack_threads,
        relay=relay,
        shared=shared,
    )

    async def beat(port: int) -> None:
        own_url = http_url("127.0.0.1", port, tls=door is not None)
        while True:
            changed.clear()
            await registry.heartbeat(
                ReplicaRecord(
                    replica_id=name, grpc_address="127.0.0.1:1", http_url=own_url,
                    engine="benchmark", precision=Precision(), model_type="qwen3", vocab_size=1,
                    parameter_count=PARAMETERS, policy_version=engine.version, policy_digest=engine.digest,
                    ready=True, slots=1, running_sequences=0, waiting_sequences=0,
                )
            )  # fmt: skip
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS)
            except TimeoutError:
                continue

    async with serve(control_application(metrics, lambda: None, intake), "127.0.0.1", 0, door) as port:
        heartbeats = asyncio.create_task(beat(port))
        await asyncio.to_thread(sys.stdin.read)
        heartbeats.cancel()
    await intake.close()
    await registry.leave(name)


def discarding(file: Path) -> Callable[..., Awaitable[None]]:
    """An ASGI application without a framework: a body goes into a file, as it comes."""

    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        assert scope["type"] == "http"
        with file.open("wb", buffering=0) as opened:
            while True:
                message = await receive()
                opened.write(message.get("body", b""))
                if not message.get("more_body"):
                    break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


async def plain(port_file: Path, file: Path) -> None:
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(discarding(file), log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    port_file.write_text(str(listener.getsockname()[1]), encoding="utf-8")  # noqa: ASYNC240
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "replica":
        url, run, name, staging, shared, *rest = arguments
        sharing, secrets = Path(shared) if shared else None, Path(rest[0]) if rest else None
        asyncio.run(replica(url, run, name, Path(staging), sharing, secrets))
    else:
        asyncio.run(plain(Path(arguments[0]), Path(arguments[1])))
