"""Replicas whose weights path is the real one, over real HTTP, with an engine that only keeps what it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from fastapi import Request, Response
from prometheus_client import CollectorRegistry

from ais.contracts.registry import HEARTBEAT_SECONDS, ReplicaRecord, ReplicaRegistry
from ais.contracts.sampling import Precision
from ais.rollout.engine import EngineDescription, WeightSwap
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.weights.control_api import control_application
from ais.rollout.weights.intake import WeightIntake
from ais.rollout.weights.relay import Relay, no_addresses
from ais.runtime.network.http import serve
from tests.support.records import replica_record

Answer = Callable[[int], Awaitable[Response | None]]
"""Called with the version of every offer before it is looked at; a response refuses it."""


class KeepingEngine:
    """What `WeightIntake` asks of an engine."""

    def __init__(self, version: int, digest: str) -> None:
        self.version, self.digest = version, digest
        self.payload = b""
        """What serves: the bytes of all its files."""
        self.applied: list[int] = []
        self.hold: asyncio.Event | None = None
        """Where set, nothing is applied before it is."""

    def describe(self) -> EngineDescription:
        return EngineDescription(
            engine="stand-in", engine_version="0", model_type="qwen3", vocab_size=22, max_model_len=64,
            parameter_count=1 << 30, precision=Precision(), version=self.version, digest=self.digest,
        )  # fmt: skip

    async def swap_weights(self, version: int, digest: str, files: Sequence[Path]) -> WeightSwap:
        if self.hold is not None:
            await self.hold.wait()
        self.payload = b"".join(file.read_bytes() for file in files)
        self.version, self.digest = version, digest
        self.applied.append(version)
        return WeightSwap(staging_seconds=0.0, paused_seconds=0.0, probe_gap=None)


class StandInReplica:
    """The weights path of a replica, with a switch for each way it can go wrong."""

    def __init__(
        self,
        name: str,
        version: int,
        digest: str,
        staging: Path,
        model: Sequence[Path] = (),
        registered: Callable[[], Awaitable[Collection[str]]] = no_addresses,
        shared: Path | None = None,
    ) -> None:
        self.name = name
        self.url = ""
        self.engine = KeepingEngine(version, digest)
        self.offers: list[int] = []
        """Versions of all offers, in order."""
        self.answer: Answer | None = None
        self.changed = asyncio.Condition()
        self.metrics_registry = CollectorRegistry()
        self.on_applied: Callable[[], None] = lambda: None
        metrics = RolloutMetrics(self.metrics_registry)
        self.intake = WeightIntake(
            self.engine,  # type: ignore[arg-type]
            staging,
            metrics,
            relay=Relay(metrics, registered),
            applied=lambda: self.on_applied(),
            model=model,
            shared=shared,
        )
        self.app = control_application(self.metrics_registry, lambda: None, self.intake)
        self.app.middleware("http")(self._offered)

    @property
    def version(self) -> int:
        return self.engine.version

    @property
    def payload(self) -> bytes:
        return self.engine.payload

    @property
    def applied(self) -> list[int]:
        return self.engine.applied

    def shared_shards(self, outcome: str) -> float:
        labels = {"outcome": outcome}
        return self.metrics_registry.get_sample_value("ais_rollout_weight_shared_shards_total", labels) or 0.0

    @property
    def received_bytes(self) -> float:
        return self.metrics_registry.get_sample_value("ais_rollout_weight_received_bytes_total") or 0.0

    def swaps(self, outcome: str) -> float:
        return self.metrics_registry.get_sample_value("ais_rollout_weight_swaps_total", {"outcome": outcome}) or 0.0

    async def _offered(self, request: Request, forward: Callable[[Request], Awaitable[Response]]) -> Response:
        answer: Response | None = None
        if request.method == "PUT" and "/shards/" not in request.url.path:
            version = int(request.url.path.rsplit("/", 1)[1])
            self.offers.append(version)
            await self._tell()
            answer = None if self.answer is None else await self.answer(version)
        if answer is None:
            answer = await forward(request)
        await self._tell()
        return answer

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` holds; fails after ten seconds."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)


class Fleet:
    """Stand-in replicas in a real registry."""

    def __init__(self, registry: ReplicaRegistry, stack: AsyncExitStack, staging: Path) -> None:
        self._registry = registry
        self._stack = stack
        self._staging = staging
        self._records: dict[str, ReplicaRecord] = {}
        self._beats: set[asyncio.Task[None]] = set()

    async def join(
        self,
        name: str,
        version: int = 0,
        digest: str = "blake3:0",
        model: Sequence[Path] = (),
        shared: Path | None = None,
        staging: Path | None = None,
    ) -> StandInReplica:
        """Starts a replica that tells the registry of each version it applies. It merges adapters into `model`."""
        if staging is None:
            staging = self._staging / name
            staging.mkdir()
        replica = StandInReplica(name, version, digest, staging, model, self._registry.urls, shared)
        port = await self._stack.enter_async_context(serve(replica.app, "127.0.0.1", 0))
        self._stack.push_async_callback(replica.intake.close)
        replica.url = f"http://127.0.0.1:{port}"
        replica.on_applied = lambda: self._beat(replica)
        await self.register(name, replica.url, version, digest)
        return replica

    async def register(
        self, name: str, url: str, version: int = 0, digest: str = "blake3:0", precision: Precision | None = None
    ) -> None:
        """`precision`: None is what it said before, at first the default."""
        known = self._records.get(name)
        self._records[name] = record = replica_record(
            name,
            http_url=url,
            vocab_size=22,
            policy_version=version,
            policy_digest=digest,
            precision=precision or (known.precision if known else Precision()),
        )
        await self._registry.heartbeat(record)

    async def leave(self, name: str) -> None:
        del self._records[name]
        await self._registry.leave(name)

    async def beat(self) -> None:
        """The heartbeats of all, until cancelled."""
        while True:
            for record in list(self._records.values()):
                await self._registry.heartbeat(record)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _beat(self, replica: StandInReplica) -> None:
        engine = replica.engine
        beat = asyncio.create_task(self.register(replica.name, replica.url, engine.version, engine.digest))
        self._beats.add(beat)
        beat.add_done_callback(self._beats.discard)
