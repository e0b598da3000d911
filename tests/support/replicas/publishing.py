"""What tests of the publisher share: versions to publish, a running publisher, and a connection that is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.runtime.security.roles import Role
from ais.runtime.tasks import end_tasks
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.settings import PushSettings
from ais.trainer.weights.deltas import Origin
from ais.trainer.weights.publisher import WeightPublisher
from ais.trainer.weights.snapshot import Snapshot, Staging, take_snapshot
from tests.support.access import credential
from tests.support.replicas.replica_stand_ins import StandInReplica


def versions(directory: Path) -> Callable[..., Snapshot]:
    """Makes versions of one random model of three shards. Each moves `share` of the weights of the one before."""
    directory.mkdir()

    def make(version: int, share: float = 0.01) -> Snapshot:
        generator = torch.Generator().manual_seed(0)
        tensors = {f"layer.{index}": torch.randn(64, 1024, generator=generator) for index in range(3)}
        for step in range(version):
            generator.manual_seed(step)
            for tensor in tensors.values():
                moved = torch.rand(tensor.shape, generator=generator) < share
                tensor[moved] *= 1.01
        return take_snapshot(version, tensors, staging=Staging(directory, shard_bytes=150_000))

    return make


def payload_of(snapshot: Snapshot) -> bytes:
    return b"".join(one.path.read_bytes() for one in snapshot.files)


@asynccontextmanager
async def publishing(
    redis: Redis,
    keys: Keys,
    registry: CollectorRegistry,
    incarnation: int = 0,
    run: str = "",
    shared: Path | None = None,
    **settings: object,
) -> AsyncIterator[WeightPublisher]:
    chosen = PushSettings.model_validate({"registry_poll_seconds": 0.05, "deadline_seconds": 5.0, **settings})
    publisher = WeightPublisher(
        ReplicaRegistry(redis, keys),
        chosen,
        TrainerMetrics(registry),
        Origin(run, incarnation),
        credential=credential(Role.TRAINER),
        shared=shared,
    )
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        if publisher._client.is_closed:  # it ends by itself
            await asyncio.wait([task])
        ended = task.done()
        await end_tasks(task)
        if ended:
            task.result()


def sent(registry: CollectorRegistry, encoding: str) -> float:
    return registry.get_sample_value("ais_weight_push_bytes_total", {"encoding": encoding}) or 0.0


async def served(snapshot: Snapshot, *replicas: StandInReplica) -> None:
    """Waits until replicas serve just the bytes of a version."""
    for replica in replicas:
        await replica.until(lambda replica=replica: replica.engine.digest == snapshot.digest)
        assert replica.version == snapshot.version
        assert replica.payload == payload_of(snapshot)


class CuttingProxy:
    """Forwards TCP to a port, and cuts its first connections after so many bytes to it; `dies`: then it is gone."""

    def __init__(self, port: int, cuts: list[int], dies: bool = False) -> None:
        self._port = port
        self._cuts = cuts
        self._dies = dies
        self.forwarded = 0

    async def serve(self, stack: AsyncExitStack) -> str:
        self._server = await stack.enter_async_context(await asyncio.start_server(self._connected, "127.0.0.1", 0))
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        returning = asyncio.create_task(self._return(there, writer))
        through = 0
        while piece := await reader.read(10_000):
            through += len(piece)
            if self._cuts and through > self._cuts[0]:
                self._cuts.pop(0)
                if self._dies:
                    self._server.close()
                break
            back.write(piece)
            await back.drain()
            self.forwarded += len(piece)
        returning.cancel()
        for end in (writer, back):
            end.close()

    async def _return(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await there.read(10_000):
            writer.write(piece)
            await writer.drain()
