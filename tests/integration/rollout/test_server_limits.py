"""What the generation API takes from one peer and from all together: the excess is refused, and costs no memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.collector.replicas.generation import KEEPALIVE_ANSWER_SECONDS, KEEPALIVE_SECONDS
from ais.contracts.keys import Keys
from ais.contracts.model_identity import ModelIdentity
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.sampling import SamplingParameters
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import PINGS_APART_SECONDS, ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from ais.runtime.security.roles import Role
from tests.support.access import metadata
from tests.support.recordings import recorded_group, recording
from tests.support.replicas.replica_process import overrides, process, registered

MODEL = Path(__file__).parents[3] / "examples/sort16/model"
TOKEN = (5).to_bytes(4, "little")
MEGABYTE = 1_000_000
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 30)]


def message(prompt: int = 3, group_id: str = "group", stops: int = 0, samples: int = 1) -> rollout_pb2.GenerateRequest:
    """`prompt` and `stops`: how many tokens."""
    sampling = SamplingParameters(max_new_tokens=4, stop_token_ids=(5,) * stops)
    return rollout_pb2.GenerateRequest(
        group_id=group_id, prompt_token_ids=TOKEN * prompt, samples=samples, sampling=sampling.to_proto()
    )


async def outcome(stub: rollout_pb2_grpc.RolloutStub, request: rollout_pb2.GenerateRequest, **call: object) -> str:
    """The status, and the reason where there is one."""
    try:
        async for _trajectory in stub.Generate(request, timeout=100, **call):
            pass
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "OK"


@pytest.fixture
async def server(open_engine: Callable) -> AsyncIterator[Callable]:
    """Servers of a real engine, by their limits; each gives its address."""

    @asynccontextmanager
    async def served(limits: ServerLimits) -> AsyncIterator[str]:
        metrics = RolloutMetrics(CollectorRegistry())
        identity = ReplicaIdentity("replica", "run", ModelIdentity("", ""))
        service = GenerationService(await open_engine(), identity, metrics)
        async with serve_generation(service, "127.0.0.1", 0, limits) as listening:
            yield f"127.0.0.1:{listening.port}"

    return served


async def test_requests_far_beyond_the_context_are_refused_and_never_held_in_memory(
    redis: Redis, redis_url: str, run_name: str, keys: Keys, tmp_path: Path
) -> None:
    file = recording(tmp_path, recorded_group((4, 5, 6), [5]))
    settings = overrides(MODEL, redis_url, run_name, "rollout.engine=replay", f"rollout.replay.recording={file}")
    excess = {
        "prompt": message(prompt=5 * MEGABYTE),
        "group_id": message(group_id="g" * (20 * MEGABYTE)),
        "stop tokens": message(stops=MEGABYTE),
        "compressed": message(prompt=MEGABYTE),
    }
    async with process(*settings, log=tmp_path / "log") as replica:
        record = await registered(ReplicaRegistry(redis, keys))
        memory = psutil.Process(replica.pid).memory_info
        async with grpc.aio.insecure_channel(record.grpc_address, options=UNLIMITED) as channel:
            stub, token = rollout_pb2_grpc.RolloutStub(channel), metadata(Role.COLLECTOR)
            assert await outcome(stub, message(), metadata=token) == "OK"
            before = peak = memory().rss
            for kind, request in excess.items():
                call = {"compression": grpc.Compression.Gzip} if kind == "compressed" else {}
                calls = asyncio.gather(*(outcome(stub, request, metadata=token, **call) for _ in range(8)))
                while not calls.done():
                    peak = max(peak, memory().rss)
                    await asyncio.sleep(0.01)
                assert all("RESOURCE_EXHAUSTED" in one and "larger than max" in one for one in await calls), kind
                assert await outcome(stub, message(), metadata=token) == "OK"
            assert peak - before < 100 * MEGABYTE
    assert (tmp_path / "log").stat().st_size < 20_000


async def test_metadata_beyond_the_limit_is_refused_and_below_it_taken(server: Callable) -> None:
    async with server(ServerLimits()) as address, grpc.aio.insecure_channel(address) as channel:
        stub = rollout_pb2_grpc.RolloutStub(channel)
        for size, expected in ((15_000, "OK"), (17_000, "RESOURCE_EXHAUSTED"), (5 * MEGABYTE, "RESOURCE_EXHAUSTED")):
            got = await outcome(stub, message(), metadata=(("x-large", "a" * size),))
            assert got.startswith(expected), size
        assert await outcome(stub, message()) == "OK"


@pytest.mark.slow
async def test_every_call_of_a_burst_is_served_or_refused_with_a_reason(server: Callable) -> None:
    """gRPC's own limit on waiting calls cancels some from 1,000 on, and all beyond 3,000."""
    async with server(ServerLimits()) as address, grpc.aio.insecure_channel(address) as channel:
        stub = rollout_pb2_grpc.RolloutStub(channel)
        outcomes = Counter(await asyncio.gather(*(outcome(stub, message()) for _ in range(3500))))
    kinds = {text.partition(":")[0] for text in outcomes}
    assert kinds <= {"OK", "RESOURCE_EXHAUSTED"}, outcomes
    assert outcomes["OK"] >= 80, "as many as the engine has room for"
    assert "RESOURCE_EXHAUSTED: " not in outcomes


async def test_calls_that_send_nothing_do_not_pile_up(server: Callable) -> None:
    async with server(ServerLimits(calls=4)) as address, grpc.aio.insecure_channel(address) as channel:
        silent = [channel.stream_stream("/ais.v1.Rollout/Generate")() for _ in range(4)]
        await asyncio.gather(*(call.wait_for_connection() for call in silent))
        stub = rollout_pb2_grpc.RolloutStub(channel)
        async with asyncio.timeout(20):
            while (refused := await outcome(stub, message())) == "OK":  # the silent calls may arrive after it
                await asyncio.sleep(0.01)
        assert refused.startswith("RESOURCE_EXHAUSTED: Concurrent RPC limit")
        for call in silent:
            call.cancel()
        async with asyncio.timeout(20):
            while await outcome(stub, message()) != "OK":
                await asyncio.sleep(0.01)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""A whole HTTP/2 greeting, after which nothing is asked."""


@pytest.mark.parametrize("first", [b"", b"PRI * HT", PREFACE], ids=["silent", "half a greeting", "greeting"])
async def test_connections_without_a_call_are_closed(first: bytes, server: Callable) -> None:
    async with server(ServerLimits(handshake_seconds=0.5, idle_seconds=0.5)) as address:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(first)
        async with asyncio.timeout(20):
            while await reader.read(1000):
                pass
        writer.close()


async def test_connections_beyond_the_limit_are_closed_and_free_their_places_when_they_end(server: Callable) -> None:
    async with server(ServerLimits(connections=3)) as address:
        host, port = address.split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        for reader, writer in held:
            writer.write(PREFACE)
            assert await asyncio.wait_for(reader.read(10), 20)
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await asyncio.wait_for(reader.read(10), 20) == b""
        for _reader, writer in held:
            writer.close()
        async with grpc.aio.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = await check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("max_model_len", [2, 512, 131_072])
def test_the_longest_request_that_an_engine_may_take_is_below_the_limit(max_model_len: int) -> None:
    longest = message(prompt=max_model_len - 1, group_id="\U0001f600" * 512, stops=16, samples=2**31)
    assert longest.ByteSize() < ServerLimits.of_engine(max_model_len, room=1).message_bytes


def test_pings_of_the_collector_are_no_abuse_however_late_a_starved_replica_reads_them() -> None:
    # One is read as late as its answer may come, the next one at once: "Too many pings" had ended a call of minutes.
    assert KEEPALIVE_SECONDS - KEEPALIVE_ANSWER_SECONDS > PINGS_APART_SECONDS
