"""The publisher's policy, with a real registry and real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import Response
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from replica_stand_ins import Fleet

from services.contracts.keys import Keys
from services.contracts.registry import ReplicaRegistry
from services.contracts.weights import WeightsRefused, digest_of
from services.runtime.tasks import end_tasks
from services.trainer.metrics import TrainerMetrics
from services.trainer.publisher import PIECE_BYTES, WeightPublisher
from services.trainer.settings import TrainerSettings
from services.trainer.snapshot import Snapshot


def snapshot(version: int, size: int = 1000) -> Snapshot:
    payload = bytes([version]) * size
    return Snapshot(version, payload, digest_of(payload))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def publisher(redis: Redis, keys: Keys, registry: CollectorRegistry) -> AsyncIterator[WeightPublisher]:
    settings = TrainerSettings(registry_poll_seconds=0.05, push_deadline_seconds=5.0)
    publisher = WeightPublisher(ReplicaRegistry(redis, keys), settings, TrainerMetrics(registry))
    task = asyncio.create_task(publisher.run())
    yield publisher
    await end_tasks(task)


def pushes(registry: CollectorRegistry, outcome: str) -> float:
    return registry.get_sample_value("ais_weight_pushes_total", {"outcome": outcome}) or 0.0


async def test_every_replica_gets_the_version_whole_and_in_pieces(publisher: WeightPublisher, fleet: Fleet) -> None:
    replicas = [await fleet.join(f"replica-{index}") for index in range(2)]
    new = snapshot(1, size=2 * PIECE_BYTES + 7)
    publisher.offer(new)
    for replica in replicas:
        await replica.until(lambda replica=replica: replica.version == 1)
        assert replica.payload == new.payload
    assert await publisher.settle(5.0)


async def test_a_replica_that_joins_with_an_old_version_gets_the_newest(
    publisher: WeightPublisher, fleet: Fleet
) -> None:
    publisher.offer(snapshot(7))
    late = await fleet.join("late")
    await late.until(lambda: late.version == 7)


async def test_a_replica_that_serves_the_version_is_left_alone(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry
) -> None:
    current, old = await fleet.join("current", version=3), await fleet.join("old", version=2)
    publisher.offer(snapshot(3))
    await old.until(lambda: old.version == 3)
    assert await publisher.settle(5.0)
    assert current.received == []


async def test_a_straggler_delays_nobody_and_gets_the_newest_when_it_is_free(
    publisher: WeightPublisher, fleet: Fleet
) -> None:
    straggler, quick = await fleet.join("straggler"), await fleet.join("quick")
    free = asyncio.Event()

    async def wait(version: int) -> None:
        await free.wait()

    straggler.answer = wait
    for version in (1, 2, 3):
        publisher.offer(snapshot(version))
        await quick.until(lambda version=version: quick.version == version)
    await straggler.until(lambda: straggler.received == [1])
    assert not await publisher.settle(0.1)
    free.set()
    await straggler.until(lambda: straggler.version == 3)
    assert straggler.received == [1, 3]  # 2 was overtaken before its upload began


@pytest.mark.parametrize(
    ("status", "field"), [(503, "replica"), (408, "body"), (422, "digest")], ids=["trouble", "stalled", "damaged"]
)
async def test_an_upload_that_may_succeed_next_time_is_tried_again(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, status: int, field: str
) -> None:
    replica = await fleet.join("replica")
    refusal = WeightsRefused(field=field, reason="made up by the test", serving_version=0)

    async def fail_once(version: int) -> Response | None:
        again = len(replica.received) > 1
        return None if again else Response(refusal.model_dump_json(), status_code=status)

    replica.answer = fail_once
    publisher.offer(snapshot(1))
    await replica.until(lambda: replica.version == 1)
    assert await publisher.settle(5.0)
    assert (pushes(registry, "failed"), pushes(registry, "applied")) == (1, 1)


async def test_an_answer_of_4xx_is_not_tried_again_until_the_next_version(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry
) -> None:
    replica = await fleet.join("replica")

    async def refuse_the_first(version: int) -> Response | None:
        return Response("digest differs", status_code=422) if version == 1 else None

    replica.answer = refuse_the_first
    publisher.offer(snapshot(1))
    await replica.until(lambda: replica.received == [1])
    assert await publisher.settle(5.0)
    publisher.offer(snapshot(2))
    await replica.until(lambda: replica.version == 2)
    assert replica.received == [1, 2]
    assert pushes(registry, "refused") == 1


async def test_a_replica_that_serves_a_newer_version_is_fine(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry
) -> None:
    replica = await fleet.join("replica")

    async def newer(version: int) -> Response:
        refusal = WeightsRefused(field="version", reason="serving 9", serving_version=9)
        return Response(refusal.model_dump_json(), status_code=409)

    replica.answer = newer
    publisher.offer(snapshot(1))
    await replica.until(lambda: replica.received == [1])
    assert await publisher.settle(5.0)
    assert pushes(registry, "superseded") == 1


async def test_a_replica_that_cannot_be_reached_does_not_stop_the_others(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry
) -> None:
    await fleet.register("gone", "http://127.0.0.1:9")
    alive = await fleet.join("alive")
    for version in (1, 2):
        publisher.offer(snapshot(version))
        await alive.until(lambda version=version: alive.version == version)
    assert pushes(registry, "failed") >= 1
