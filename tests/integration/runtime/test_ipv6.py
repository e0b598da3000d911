"""Every listener and every address over a real IPv6 socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ais.collector.replicas.generation import GenerationClient
from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import TrajectoryBounds
from ais.contracts.weights.offer import full_offer
from ais.contracts.weights.upload import these, upload_client, upload_with_retries
from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.addresses import http_url
from ais.runtime.network.http import application, serve
from ais.runtime.network.redis import connect
from ais.runtime.security.door import Door
from ais.runtime.security.roles import Role
from ais.runtime.settings import RedisSettings
from tests.support.access import credential
from tests.support.ipv6 import needs_ipv6
from tests.support.recordings import recorded_group, recording
from tests.support.replicas.replica_process import overrides, process, registered
from tests.support.valkey_process import ValkeyProcess

MODEL = Path(__file__).parents[3] / "examples/sort16/model"

pytestmark = needs_ipv6


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A Valkey server that listens on ::1 only."""
    with ValkeyProcess(tmp_path, host="::1") as server:
        yield server


@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0:0:0:0:0:0:1"])
async def test_an_http_page_is_served_on_any_spelling_of_the_loopback(host: str) -> None:
    app = application("test", service_registry("test"), lambda: None)
    async with serve(app, host, 0) as port, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{http_url(host, port)}/healthz")).status_code == 200


@pytest.mark.parametrize("host", ["::", "[::]"])
async def test_who_listens_everywhere_is_reached_over_both_families(host: str) -> None:
    app = application("test", service_registry("test"), lambda: None)
    async with serve(app, host, 0, Door(None)) as port, httpx.AsyncClient(trust_env=False) as client:
        for loopback in ("::1", "127.0.0.1"):
            assert (await client.get(f"{http_url(loopback, port)}/healthz")).status_code == 200


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
async def test_a_replica_generates_and_takes_weights(host: str, server: ValkeyProcess, tmp_path: Path) -> None:
    """The whole way of its addresses: setting, listener, registry record, call, upload. Redis is on ::1 too."""
    file = recording(tmp_path, recorded_group((4, 5, 6), [5]))
    advertised = ("rollout.advertised_host=[::1]",) if host == "::" else ()
    replay = ("rollout.engine=replay", f"rollout.replay.recording={file}", f"rollout.host={host}", *advertised)
    redis = await connect(RedisSettings(url=server.url))
    try:
        async with process(*overrides(MODEL, server.url, "six", *replay)):
            record = await registered(ReplicaRegistry(redis, Keys("six")))
            assert record.grpc_address.startswith("[::1]:")
            assert await _sequences(record.grpc_address, record.vocab_size) == 2
            files = [MODEL / "model.safetensors"]
            async with upload_client(20.0, credential=credential(Role.TRAINER)) as client:
                await upload_with_retries(client, record.http_url, full_offer(1, files), these(files))
            assert (await registered(ReplicaRegistry(redis, Keys("six")), version=1)).http_url == record.http_url
    finally:
        await redis.aclose()


async def _sequences(address: str, vocab_size: int) -> int:
    client = GenerationClient(address, credential=credential(Role.COLLECTOR))
    try:
        bounds = TrajectoryBounds(vocab_size)
        return len(await client.generate("group", [4, 5, 6], 2, SamplingParameters(), bounds, 20.0))
    finally:
        await client.close()
