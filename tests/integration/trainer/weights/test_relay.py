"""Replicas pass versions on to each other: the trainer's egress stays, and nobody is lost with the one above."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.weights.offer import RelayTarget
from ais.contracts.weights.upload import these, upload, upload_client
from ais.runtime.network.http import serve
from ais.trainer.weights.deltas import Origin, full
from ais.trainer.weights.publisher import WeightPublisher
from ais.trainer.weights.snapshot import Snapshot
from tests.support.replicas.publishing import CuttingProxy, payload_of, publishing, sent, served, versions
from tests.support.replicas.replica_stand_ins import Fleet, StandInReplica

SEVEN = [f"replica-{index}" for index in range(7)]
"""With a fan-out of 2: the trainer to 0 and 1; 0 to 2 and 4, 2 to 6; 1 to 3 and 5."""


@pytest.fixture
def snapshot(tmp_path: Path) -> Callable[..., Snapshot]:
    return versions(tmp_path / "staging")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def publisher(redis: Redis, keys: Keys, registry: CollectorRegistry) -> AsyncIterator[WeightPublisher]:
    """One that sends to two replicas, and would take too long for a test to come to the others' rescue by deadline."""
    async with publishing(redis, keys, registry, fanout=2, deadline_seconds=60) as publisher:
        yield publisher


async def joined(fleet: Fleet, *but: str) -> dict[str, StandInReplica]:
    return {name: await fleet.join(name) for name in SEVEN if name not in but}


async def offered(publisher: WeightPublisher, version: Snapshot) -> Snapshot:
    """Offers a version once the publisher knows all seven, so that they are in one tree."""
    async with asyncio.timeout(10):
        while publisher.live_replicas < len(SEVEN):
            await asyncio.sleep(0.01)
    publisher.offer(version)
    return version


async def test_seven_replicas_get_each_version_for_two_payloads_of_the_trainer(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    replicas = await joined(fleet)
    first = await offered(publisher, snapshot(1))
    await served(first, *replicas.values())
    assert await publisher.settle(10.0)
    assert sent(registry, "full") == 2 * first.size
    second = await offered(publisher, snapshot(2))
    await served(second, *replicas.values())
    assert await publisher.settle(10.0)
    assert sent(registry, "full") == 2 * first.size, "the delta is passed on as it came"
    per_replica = {replica.received_bytes - first.size for replica in replicas.values()}
    assert per_replica == {sent(registry, "delta") / 2}


async def test_each_shard_is_passed_on_while_the_one_above_has_not_applied(
    publisher: WeightPublisher, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    replicas = await joined(fleet)
    for name in ("replica-0", "replica-1"):
        replicas[name].engine.hold = asyncio.Event()
    new = await offered(publisher, snapshot(1))
    await served(new, *(replicas[name] for name in SEVEN[2:]))
    for name in ("replica-0", "replica-1"):
        assert replicas[name].version == 0
        replicas[name].engine.hold.set()
    await served(new, *replicas.values())


async def test_the_children_of_a_replica_that_cannot_be_reached_are_served_by_the_one_above_it(
    publisher: WeightPublisher, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    await fleet.register("replica-2", "http://127.0.0.1:9")
    replicas = await joined(fleet, "replica-2")
    new = await offered(publisher, snapshot(1))
    await served(new, *replicas.values())
    assert sent(registry, "full") == 2 * new.size


async def test_the_children_of_a_root_that_cannot_be_reached_are_served_by_the_trainer(
    publisher: WeightPublisher, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    await fleet.register("replica-0", "http://127.0.0.1:9")
    replicas = await joined(fleet, "replica-0")
    new = await offered(publisher, snapshot(1))
    await served(new, *replicas.values())


async def test_the_children_of_a_root_that_dies_in_the_middle_are_served(
    publisher: WeightPublisher, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    replicas = await joined(fleet)
    dying = replicas.pop("replica-0")
    proxy = CuttingProxy(int(dying.url.rsplit(":", 1)[1]), cuts=[200_000], dies=True)
    async with AsyncExitStack() as stack:
        await fleet.register("replica-0", await proxy.serve(stack))
        new = await offered(publisher, snapshot(1))
        await served(new, *replicas.values())
    assert 0 < dying.received_bytes < new.size


async def test_the_children_of_a_root_that_leaves_the_registry_are_served(
    publisher: WeightPublisher, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    replicas = await joined(fleet)
    leaving = replicas.pop("replica-0")
    leaving.engine.hold = asyncio.Event()
    leaving.intake._pass_on = lambda *arguments: None  # type: ignore[method-assign]
    new = await offered(publisher, snapshot(1))
    await leaving.until(lambda: leaving.offers == [1, 1])
    await fleet.leave("replica-0")
    await served(new, *replicas.values())
    leaving.engine.hold.set()


@pytest.mark.parametrize("served_before", [False, True])
async def test_an_offer_that_is_repeated_with_other_replicas_to_pass_it_on_to_reaches_them(
    fleet: Fleet, snapshot: Callable[..., Snapshot], served_before: bool
) -> None:
    """As when the one that was to serve them has died: the trainer hangs them under a replica that has begun."""
    above, below = await fleet.join("above"), await fleet.join("below")
    parcel = full(snapshot(1), Origin("", 1))
    relayed = parcel.offer.model_copy(update={"relay": (RelayTarget(url=below.url),)})
    async with upload_client(10.0) as client:
        if served_before:
            await upload(client, above.url, parcel.offer, these(parcel.files))
        else:
            answer = await client.put(f"{above.url}/v1/weights/1", json=parcel.offer.model_dump(mode="json"))
            assert answer.status_code == 202
        await upload(client, above.url, relayed, these(parcel.files))
        await served(parcel.snapshot, above, below)


async def test_a_replica_that_is_passed_nothing_is_served_by_the_trainer_after_its_deadline(
    redis: Redis, keys: Keys, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    replicas = await joined(fleet)
    for name in ("replica-0", "replica-1"):
        replicas[name].intake._pass_on = lambda *arguments: None  # type: ignore[method-assign]
    async with publishing(redis, keys, registry, fanout=2, deadline_seconds=1.0) as publisher:
        new = await offered(publisher, snapshot(1))
        await served(new, *replicas.values())
    assert sent(registry, "full") == 7 * new.size


async def test_a_child_that_fails_does_not_hurt_the_one_above(
    redis: Redis, keys: Keys, fleet: Fleet, registry: CollectorRegistry, snapshot: Callable[..., Snapshot]
) -> None:
    above, failing = await fleet.join("a"), await fleet.join("b")
    failing.engine.hold = asyncio.Event()
    async with publishing(redis, keys, registry, fanout=1, deadline_seconds=0.5) as publisher:
        for version in (1, 2):
            publisher.offer(new := snapshot(version))
            await served(new, above)
        failing.engine.hold.set()
        await served(new, failing)
    assert payload_of(new) == above.payload


def follows(replica: StandInReplica, incarnation: int) -> bool:
    return replica.intake.status().incarnation == incarnation


async def test_a_new_trainer_reaches_all_replicas_that_serve_its_version_already(
    redis: Redis, keys: Keys, fleet: Fleet, snapshot: Callable[..., Snapshot]
) -> None:
    """They must all know it, so that none listens to the old one any more."""
    replicas = await joined(fleet)
    version = snapshot(3)
    for incarnation in (1, 2):
        async with publishing(redis, keys, CollectorRegistry(), incarnation, fanout=2) as publisher:
            await offered(publisher, version)
            for replica in replicas.values():
                await replica.until(partial(follows, replica, incarnation))
    assert all(replica.applied == [3] for replica in replicas.values())


async def test_nothing_is_passed_on_to_an_address_that_no_replica_of_the_run_has(
    fleet: Fleet, snapshot: Callable[..., Snapshot], tmp_path: Path
) -> None:
    """Whoever has the trainer's token could name any, and it would be sent the token and the weights."""
    above, below = await fleet.join("above"), await fleet.join("below")
    stranger = StandInReplica("stranger", 0, "blake3:0", tmp_path)
    async with serve(stranger.app, "127.0.0.1", 0) as port:
        target = RelayTarget(url=f"http://127.0.0.1:{port}", children=(RelayTarget(url=below.url),))
        parcel = full(snapshot(1), Origin("", 1))
        async with upload_client(10.0) as client:
            relayed = parcel.offer.model_copy(update={"relay": (target,)})
            await upload(client, above.url, relayed, these(parcel.files))
        await served(parcel.snapshot, above, below)
    assert stranger.offers == []
    refused = {"outcome": "refused"}
    assert above.metrics_registry.get_sample_value("ais_rollout_weight_relays_total", refused) == 1.0
