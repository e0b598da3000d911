"""The network between services breaks and mends: no hang beyond a deadline, nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
from prometheus_client import CollectorRegistry
from proxy import Proxy
from redis.asyncio import Redis

from ais.collector.replicas import generation
from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.contracts.events import Finished, VersionPublished
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import TrajectoryBounds, encode_group
from ais.contracts.v1 import rollout_pb2
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.rollout import generation_server
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.registration import Registration
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings, RunSettings
from ais.runtime.tasks import end_tasks
from ais.trainer.groups.intake import Intake
from ais.trainer.groups.reader import GroupReader, no_hidden_retries
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.settings import Settings
from tests.support.records import replica_record
from tests.support.replicas.publishing import publishing, served, versions
from tests.support.replicas.replica_stand_ins import Fleet
from tests.support.replicas.scripted_replicas import ALPHABET, Servicer, Stage, honest
from tests.support.trainer_groups import make_group

BOUNDS = TrajectoryBounds(len(ALPHABET))
QUICK = {"operation_timeout_seconds": 0.5}
"""A call that is not answered by then has failed; a blocking read may take a second more."""
Break = Callable[[Proxy], None]


async def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def to_redis(redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy to the tests' server."""
    proxy = Proxy("127.0.0.1", urlsplit(redis_url).port or 0)
    async with proxy.listen():
        yield proxy


@asynccontextmanager
async def client_through(proxy: Proxy) -> AsyncIterator[Redis]:
    client = await connect(RedisSettings(url=f"redis://127.0.0.1:{proxy.port}/0", **QUICK))
    try:
        yield client
    finally:
        await client.aclose()


async def arrived(reader: GroupReader, running: asyncio.Task[None]) -> None:
    """Returns when the next batch is complete; raises what ended the reader."""
    arriving = asyncio.create_task(reader.batch_arrived())
    await asyncio.wait((arriving, running), return_when=asyncio.FIRST_COMPLETED, timeout=30)
    await end_tasks(arriving)
    if running.done():
        running.result()
    assert not arriving.cancelled(), "the batch did not arrive in time"


# Collector and replica: gRPC.


@asynccontextmanager
async def replica_behind(stage: Stage, name: str, behaviour: Callable = honest) -> AsyncIterator[Proxy]:
    """A scripted replica that is registered under a proxy's address."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(stage.replica(name, behaviour))
        (record,) = [one for one in await stage.registry.replicas() if one.replica_id == name]
        proxy = Proxy("127.0.0.1", int(record.grpc_address.rpartition(":")[2]))
        await stage.register(name, await stack.enter_async_context(proxy.listen()), version=0)
        yield proxy


async def serves(stage: Stage, name: str, version: int) -> None:
    """The replica's record says so, from now on."""
    record = next(one for one in await stage.registry.replicas() if one.replica_id == name)
    await stage.register(name, int(record.grpc_address.rpartition(":")[2]), version)


async def call(client: GenerationClient, deadline_seconds: float) -> int:
    sampling = SamplingParameters()
    return len(await client.generate("group", [3, 4, 5, 6], 2, sampling, BOUNDS, deadline_seconds))


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.reset, Proxy.blackhole], ids=["cut", "reset", "blackhole"])
async def test_a_call_to_a_replica_fails_by_its_deadline_and_the_next_works(
    redis: Redis, run_name: str, fault: Break
) -> None:
    async with replica_behind(Stage(redis, run_name), "a") as proxy:
        client = GenerationClient(f"127.0.0.1:{proxy.port}")
        assert await call(client, 5) == 2
        fault(proxy)
        if fault is not Proxy.reset:  # after a reset the channel may have connected again before the call
            with pytest.raises(GenerationError):
                await asyncio.wait_for(call(client, 1), 10)
        proxy.heal()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await call(client, 1) == 2
                    break
                except GenerationError:
                    await asyncio.sleep(0.05)
        await client.close()


async def test_a_replica_that_vanished_silently_is_noticed_long_before_the_groups_deadline(
    redis: Redis, run_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "KEEPALIVE_SECONDS", 1.0)
    monkeypatch.setattr(generation, "KEEPALIVE_ANSWER_SECONDS", 0.5)

    async def silent(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        began.set()
        await asyncio.sleep(600)
        yield pb.Trajectory()

    began = asyncio.Event()
    async with replica_behind(Stage(redis, run_name), "a", silent) as proxy:
        client = GenerationClient(f"127.0.0.1:{proxy.port}")
        waiting = asyncio.create_task(call(client, 600))
        await began.wait()
        proxy.blackhole()
        with pytest.raises(GenerationError) as error:
            await asyncio.wait_for(waiting, 20)
        assert error.value.reason == "unavailable"
        await client.close()


async def test_a_replica_cancels_the_calls_of_a_collector_that_vanished_silently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generation_server, "KEEPALIVE_SECONDS", 1.0)
    monkeypatch.setattr(generation_server, "KEEPALIVE_ANSWER_SECONDS", 0.5)
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        began.set()
        try:
            await asyncio.sleep(600)
        finally:
            cancelled.set()
        yield pb.Trajectory()

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            generation_server.serve_generation(
                Servicer(endless),  # type: ignore[arg-type]
                "127.0.0.1",
                0,
                generation_server.ServerLimits(),
            )
        )
        proxy = Proxy("127.0.0.1", server.port)
        client = GenerationClient(f"127.0.0.1:{await stack.enter_async_context(proxy.listen())}")
        calling = asyncio.create_task(call(client, 600))
        await began.wait()
        proxy.blackhole()
        await asyncio.wait_for(cancelled.wait(), 20)
        assert not calling.done(), "the client does not know yet"
        await end_tasks(calling)
        await client.close()


@pytest.mark.parametrize(
    "fault",
    [Proxy.cut, Proxy.reset, Proxy.blackhole, lambda proxy: proxy.stall(0.3)],
    ids=["cut", "reset", "half-open", "loss"],
)
async def test_groups_of_an_unreachable_replica_are_sampled_by_another(
    redis: Redis, run_name: str, fault: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "KEEPALIVE_SECONDS", 1.0)
    monkeypatch.setattr(generation, "KEEPALIVE_ANSWER_SECONDS", 0.5)
    stage = Stage(redis, run_name)
    await stage.events.publish(VersionPublished(0, ""))
    async with replica_behind(stage, "a") as proxy, stage.collector():
        await stage.groups(4)
        fault(proxy)
        async with stage.replica("b", honest):
            for version in (1, 2):
                for name in ("a", "b"):
                    await serves(stage, name, version)
                await stage.events.publish(VersionPublished(version, ""))
                groups = await asyncio.wait_for(stage.groups(4), 30)
                assert [group.ordinal for group in groups] == list(range(4 * version, 4 * version + 4))


# Whoever talks to Redis.


@pytest.mark.parametrize(
    "fault",
    [Proxy.cut, Proxy.reset, Proxy.blackhole, lambda proxy: proxy.stall(0.3)],
    ids=["cut", "reset", "half-open", "loss"],
)
async def test_a_collector_and_a_reader_whose_way_to_redis_breaks_lose_nothing(
    redis: Redis, run_name: str, keys: Keys, to_redis: Proxy, fault: Break
) -> None:
    batches = 3
    direct = Stage(redis, run_name)
    async with client_through(to_redis) as collecting, client_through(to_redis) as reading:
        no_hidden_retries(reading)
        stage = Stage(collecting, run_name)
        settings = Settings(run=RunSettings(groups_per_batch=4, samples_per_group=2, max_staleness=batches))
        intake = Intake(settings.run, len(ALPHABET), context_length=64)
        metrics = TrainerMetrics(CollectorRegistry())
        reader = GroupReader(TrajectoryQueue(reading, keys), intake, metrics, settings)
        await direct.events.publish(VersionPublished(0, ""))
        trained: list[int] = []
        async with direct.replica("a", honest), stage.collector() as collecting_task:
            task = asyncio.create_task(reader.run())
            for version in range(1, batches + 1):
                await arrived(reader, task)
                trained += [item.group.ordinal for item in intake.take()]
                intake.advance()
                fault(to_redis)
                await serves(direct, "a", version)
                await direct.events.publish(VersionPublished(version, ""))
                await eventually(lambda: to_redis.suffered > 0)
                to_redis.suffered = 0
                to_redis.forget() if fault is Proxy.blackhole else to_redis.heal()
            await direct.events.publish(Finished(batches))
            await asyncio.wait_for(collecting_task, 20)
            await end_tasks(task)
    assert trained == list(range(4 * batches))
    entries = await redis.xrange(keys.groups)
    assert Counter(int(fields[b"ordinal"]) for _, fields in entries) == Counter(range(4 * batches))


async def test_a_collector_that_loses_redis_before_the_trainer_is_there_goes_on(
    redis: Redis, run_name: str, to_redis: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    direct = Stage(redis, run_name)
    async with (
        client_through(to_redis) as collecting,
        direct.replica("a", honest),
        Stage(collecting, run_name).collector(),
    ):
        to_redis.cut()
        await eventually(lambda: "Redis does not answer" in caplog.text)
        await direct.events.publish(VersionPublished(0, ""))
        to_redis.heal()
        assert len(await asyncio.wait_for(direct.groups(4), 30)) == 4


async def test_a_collector_that_waits_for_redis_still_ends_when_asked(
    redis: Redis, run_name: str, to_redis: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_through(to_redis) as collecting, asyncio.timeout(30):
        async with Stage(collecting, run_name).collector() as running:
            to_redis.cut()
            await eventually(lambda: "Redis does not answer" in caplog.text)
        assert running.done()


async def test_a_heartbeat_over_a_half_open_connection_fails_in_time_and_the_next_works(
    redis: Redis, keys: Keys, to_redis: Proxy
) -> None:
    record = replica_record("a", model_type="none", vocab_size=1, policy_digest="")
    patient = RedisSettings(url=f"redis://127.0.0.1:{to_redis.port}/0", operation_timeout_seconds=600)
    client = await connect(patient)
    registration = Registration(ReplicaRegistry(client, keys), lambda: record, RolloutMetrics(CollectorRegistry()))
    await registration.beat()
    assert registration.failure is None
    to_redis.blackhole()
    await asyncio.wait_for(registration.beat(), 10)
    assert registration.failure is not None
    to_redis.forget()
    await asyncio.wait_for(registration.beat(), 10)
    assert registration.failure is None
    assert [one.replica_id for one in await ReplicaRegistry(redis, keys).replicas()] == ["a"]
    await client.aclose()


async def test_a_reader_whose_connection_is_half_open_reads_on_over_another(
    redis: Redis, keys: Keys, to_redis: Proxy
) -> None:
    queue = TrajectoryQueue(redis, keys)
    await queue.prepare()
    async with client_through(to_redis) as reading:
        no_hidden_retries(reading)
        settings = Settings(run=RunSettings(groups_per_batch=2, samples_per_group=4))
        intake = Intake(settings.run, vocab_size=22, context_length=64)
        metrics = TrainerMetrics(CollectorRegistry())
        reader = GroupReader(TrajectoryQueue(reading, keys), intake, metrics, settings)
        task = asyncio.create_task(reader.run())
        await queue.publish(0, encode_group(make_group(0)))
        await eventually(lambda: 0 in intake._buffer)
        to_redis.blackhole()
        await queue.publish(1, encode_group(make_group(1)))
        to_redis.forget()
        await arrived(reader, task)
        await end_tasks(task)
    assert [item.group.ordinal for item in intake.take()] == [0, 1]


# Trainer and replica: HTTP.


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.reset, Proxy.blackhole], ids=["cut", "reset", "half-open"])
async def test_an_upload_that_breaks_off_delays_nobody_and_is_made_again(
    redis: Redis, keys: Keys, tmp_path: Path, fault: Break
) -> None:
    new = versions(tmp_path / "versions")(1)
    (tmp_path / "replicas").mkdir()
    async with AsyncExitStack() as stack:
        fleet = Fleet(ReplicaRegistry(redis, keys), stack, tmp_path / "replicas")
        far, near = await fleet.join("far"), await fleet.join("near")
        proxy = Proxy("127.0.0.1", urlsplit(far.url).port or 0)
        far.url = f"http://127.0.0.1:{await stack.enter_async_context(proxy.listen())}"
        await fleet.register("far", far.url)
        proxy.limit(new.size / 2)  # bytes a second: it is on its way when the network breaks
        beating = asyncio.create_task(fleet.beat())
        async with publishing(redis, keys, CollectorRegistry(), deadline_seconds=2.0) as publisher:
            publisher.offer(new)
            await served(new, near)
            await eventually(lambda: proxy.forwarded > new.size / 4)
            fault(proxy)
            await eventually(lambda: proxy.suffered > 0)
            assert far.version == 0
            proxy.limit(1e9)
            proxy.forget() if fault is Proxy.blackhole else proxy.heal()
            await served(new, far)
        await end_tasks(beating)
    assert far.applied == [1]
