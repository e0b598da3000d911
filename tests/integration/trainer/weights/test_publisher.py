"""The publisher's policy, with a real registry, real HTTP and the replicas' own weight intake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import torch
from fastapi import Response
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.weights.refusal import WeightsRefused
from ais.contracts.weights.upload import KEEPALIVE_SECONDS
from ais.rollout.weights.standing import Lease
from ais.trainer.weights.publisher import WeightPublisher
from ais.trainer.weights.snapshot import Snapshot, Staging, take_snapshot
from tests.support.replicas.publishing import CuttingProxy, publishing, sent, served, versions
from tests.support.replicas.replica_stand_ins import Fleet


@pytest.fixture
def snapshot(tmp_path: Path) -> Callable[..., Snapshot]:
    return versions(tmp_path / "staging")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def publisher(redis: Redis, keys: Keys, registry: CollectorRegistry) -> AsyncIterator[WeightPublisher]:
    async with publishing(redis, keys, registry) as publisher:
        yield publisher


def pushes(registry: CollectorRegistry, outcome: str) -> float:
    return registry.get_sample_value("ais_weight_pushes_total", {"outcome": outcome}) or 0.0


async def test_every_replica_gets_the_version_whole(
    publisher: WeightPublisher, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    replicas = [await fleet.join(f"replica-{index}") for index in range(2)]
    new = snapshot(1)
    assert len(new.files) == 3
    publisher.offer(new)
    await served(new, *replicas)
    assert await publisher.settle(5.0)


async def test_a_replica_that_joins_with_an_old_version_gets_the_newest(
    publisher: WeightPublisher, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    new = snapshot(7)
    publisher.offer(new)
    await served(new, await fleet.join("late"))


async def test_a_replica_that_serves_the_version_is_sent_nothing(
    publisher: WeightPublisher, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    new = snapshot(3)
    current, old = await fleet.join("current", 3, new.digest), await fleet.join("old", version=2)
    publisher.offer(new)
    await served(new, old)
    assert await publisher.settle(5.0)
    assert (current.received_bytes, current.applied) == (0, [])
    assert current.intake.status().incarnation == 0, "it knows the trainer that it follows now"


async def test_a_straggler_delays_nobody_and_gets_the_newest_when_it_is_free(
    publisher: WeightPublisher, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    straggler, quick = await fleet.join("straggler"), await fleet.join("quick")
    straggler.engine.hold = asyncio.Event()
    for version in (1, 2, 3):
        new = snapshot(version)
        publisher.offer(new)
        await served(new, quick)
    assert not await publisher.settle(0.1)
    straggler.engine.hold.set()
    await served(new, straggler)
    assert straggler.applied == [1, 3], "2 was overtaken before its upload began"


# Deltas.


async def test_the_next_version_comes_as_a_delta_and_the_weights_are_equal_to_the_bit(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    replicas = [await fleet.join(f"replica-{index}") for index in range(2)]
    first, second = snapshot(1), snapshot(2)
    publisher.offer(first)
    await served(first, *replicas)
    publisher.offer(second)
    await served(second, *replicas)
    assert sent(registry, "full") == 2 * first.size
    assert 0 < sent(registry, "delta") < 0.1 * 2 * second.size
    assert registry.get_sample_value("ais_weight_delta_seconds_count") == 1, "computed once for all replicas"
    assert registry.get_sample_value("ais_weight_delta_ratio") == sent(registry, "delta") / 2 / second.size


async def test_a_delta_that_is_not_smaller_is_not_sent(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, tmp_path: Path
) -> None:
    replica = await fleet.join("replica")
    for version in (1, 2):
        bits = torch.randint(-(1 << 15), 1 << 15, (300, 300), dtype=torch.int16)
        new = take_snapshot(version, {"noise": bits.view(torch.bfloat16)}, staging=Staging(tmp_path))
        publisher.offer(new)
        await served(new, replica)
    assert sent(registry, "delta") == 0


async def test_a_straggler_and_a_newcomer_get_the_full_version(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    straggler, quick = await fleet.join("straggler"), await fleet.join("quick")
    first = snapshot(1)
    publisher.offer(first)
    await served(first, straggler, quick)
    straggler.engine.hold = asyncio.Event()
    for version in (2, 3, 4):
        new = snapshot(version)
        publisher.offer(new)
        await served(new, quick)
    newcomer = await fleet.join("newcomer")
    straggler.engine.hold.set()
    await served(new, straggler, newcomer)
    assert straggler.applied == [1, 2, 4]
    assert newcomer.received_bytes == new.size
    assert straggler.received_bytes > 2 * new.size


async def test_a_replica_without_the_base_that_the_registry_names_gets_the_full_version(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    """It has lost the files, or loaded the version from disk."""
    replica, other = await fleet.join("replica"), await fleet.join("other")
    first, second = snapshot(1), snapshot(2)
    publisher.offer(first)
    await served(first, replica, other)
    late = await fleet.join("from-disk", 1, first.digest)
    assert await publisher.settle(5.0)
    publisher.offer(second)
    await served(second, replica, other, late)
    assert pushes(registry, "rebased") == 1
    assert late.received_bytes == second.size


async def test_a_replica_whose_files_are_gone_gets_the_full_version(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    replica = await fleet.join("replica")
    publisher.offer(first := snapshot(1))
    await served(first, replica)
    for file in replica.intake._files:
        file.unlink()
    publisher.offer(second := snapshot(2))
    await served(second, replica)
    assert await publisher.settle(5.0)
    assert pushes(registry, "rebased") == 1


async def test_a_version_with_the_same_weights_is_still_a_new_version(
    publisher: WeightPublisher, fleet: Fleet, tmp_path: Path
) -> None:
    """A step whose update was skipped."""
    replica = await fleet.join("replica")
    for version in (1, 2):
        publisher.offer(take_snapshot(version, {"a": torch.ones(100)}, staging=Staging(tmp_path)))
        await replica.until(lambda version=version: replica.version == version)
    assert replica.applied == [1, 2]


async def test_files_of_versions_that_nobody_needs_go(
    publisher: WeightPublisher, fleet: Fleet, tmp_path: Path, snapshot: Callable[..., Snapshot]
) -> None:
    replica = await fleet.join("replica")
    for version in range(1, 7):
        publisher.offer(snapshot(version))
        await replica.until(lambda version=version: replica.version == version)
    assert await publisher.settle(5.0)
    async with asyncio.timeout(10):
        while len(versions := sorted(path.name for path in (tmp_path / "staging").glob("version-*"))) > 1:
            await asyncio.sleep(0.01)
    assert versions[0].startswith("version-6-")


# Faults.


@pytest.mark.parametrize(
    ("status", "field"), [(503, "replica"), (408, "body"), (422, "digest")], ids=["trouble", "stalled", "damaged"]
)
async def test_an_upload_that_may_succeed_next_time_is_tried_again(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable, status: int, field: str
) -> None:
    replica = await fleet.join("replica")
    refusal = WeightsRefused(field=field, reason="made up by the test", serving_version=0)

    async def fail_once(version: int) -> Response | None:
        again = len(replica.offers) > 1
        return None if again else Response(refusal.model_dump_json(), status_code=status)

    replica.answer = fail_once
    publisher.offer(snapshot(1))
    await replica.until(lambda: replica.version == 1)
    assert await publisher.settle(5.0)
    assert (pushes(registry, "failed"), pushes(registry, "applied")) == (1, 1)


async def test_an_answer_of_4xx_is_not_tried_again_until_the_next_version(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    replica = await fleet.join("replica")

    async def refuse_the_first(version: int) -> Response | None:
        return Response("names differ", status_code=422) if version == 1 else None

    replica.answer = refuse_the_first
    publisher.offer(snapshot(1))
    await replica.until(lambda: replica.offers == [1])
    assert await publisher.settle(5.0)
    publisher.offer(snapshot(2))
    await replica.until(lambda: replica.version == 2)
    assert replica.offers == [1, 2, 2]
    assert pushes(registry, "refused") == 1


async def test_a_trainer_that_resumed_brings_replicas_back_and_the_old_one_is_fenced_off(
    redis: Redis, keys: Keys, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    replica = await fleet.join("replica")
    old_registry, new_registry = CollectorRegistry(), CollectorRegistry()
    ahead, back, gone = snapshot(9), snapshot(4), snapshot(10)
    async with publishing(redis, keys, old_registry, incarnation=1) as old:
        old.offer(ahead)
        await served(ahead, replica)
        async with publishing(redis, keys, new_registry, incarnation=2) as new:
            new.offer(back)
            await served(back, replica)
            assert await new.settle(5.0)
            old.offer(gone)
            assert await old.settle(5.0)
    assert pushes(old_registry, "superseded") == 1
    assert replica.applied == [9, 4]


async def test_a_replica_that_cannot_be_reached_does_not_stop_the_others_and_is_shown(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    await fleet.register("gone", "http://127.0.0.1:9")
    alive = await fleet.join("alive")
    for version in (1, 2):
        publisher.offer(new := snapshot(version))
        await served(new, alive)
    async with asyncio.timeout(10):
        while registry.get_sample_value("ais_weight_replicas_set_aside") != 1:
            await asyncio.sleep(0.01)
    assert pushes(registry, "failed") >= 1


async def test_a_replica_that_hangs_delays_nobody_is_set_aside_and_comes_back(
    redis: Redis, keys: Keys, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    hanging, quick = await fleet.join("hanging"), await fleet.join("quick")
    released = asyncio.Event()

    async def hang(version: int) -> None:
        await released.wait()

    hanging.answer = hang
    async with publishing(redis, keys, registry, deadline_seconds=0.3) as publisher:
        publisher.offer(new := snapshot(1))
        await served(new, quick)
        async with asyncio.timeout(10):
            while registry.get_sample_value("ais_weight_replicas_set_aside") != 1:
                await asyncio.sleep(0.01)
        assert hanging.version == 0
        released.set()
        await served(new, hanging)
        async with asyncio.timeout(10):
            while registry.get_sample_value("ais_weight_replicas_set_aside") != 0:
                await asyncio.sleep(0.01)


async def test_a_cut_upload_goes_on_without_sending_again_what_arrived(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, tmp_path: Path
) -> None:
    replica = await fleet.join("behind-the-proxy")
    proxy = CuttingProxy(int(replica.url.rsplit(":", 1)[1]), cuts=[1_000_000, 2_500_000])
    new = take_snapshot(1, {"one": torch.randn(2_000_000)}, staging=Staging(tmp_path))
    async with AsyncExitStack() as stack:
        replica.url = await proxy.serve(stack)
        await fleet.register("behind-the-proxy", replica.url)
        publisher.offer(new)
        await served(new, replica)
        assert await publisher.settle(5.0)
    assert pushes(registry, "failed") >= 2
    assert replica.received_bytes == new.size, "the replica took every byte once"
    assert proxy.forwarded < new.size + 600_000, "what was in buffers when a connection was cut is lost, no more"


async def test_a_connection_is_not_used_again_when_the_server_may_be_closing_it() -> None:
    """Both sides with the same time-out meet now and then: that was `httpx.ReadError` in a push."""
    import uvicorn

    assert uvicorn.Config("unused").timeout_keep_alive > 2 * KEEPALIVE_SECONDS


async def test_a_run_that_is_begun_anew_gets_the_replicas_that_were_left_running(
    redis: Redis, keys: Keys, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    """As documented: the directory and the keys are removed, and the trainer counts its starts from 1 again."""
    replica = await fleet.join("replica")

    async def lease() -> Lease:
        return Lease((await redis.get(keys.identity) or b"").decode(), incarnation=3)

    replica.intake._lease = lease
    for run, incarnation, version in (("old", 2, 9), ("new", 1, 0)):
        await redis.set(keys.identity, run)
        registry = CollectorRegistry()
        async with publishing(redis, keys, registry, incarnation, run) as publisher:
            publisher.offer(new := snapshot(version))
            await served(new, replica)
            assert await publisher.settle(5.0)
    old_registry = CollectorRegistry()
    async with publishing(redis, keys, old_registry, 3, "old") as publisher:
        publisher.offer(snapshot(10))
        await replica.until(lambda: replica.offers[-1] == 10)
        assert await publisher.settle(5.0)
    assert pushes(old_registry, "refused") == 1
    assert replica.version == 0
