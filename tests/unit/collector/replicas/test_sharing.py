"""The first replica to serve a version leaves the others their part, for a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from prometheus_client import CollectorRegistry

from ais.collector.announced import Announced
from ais.collector.metrics import CollectorMetrics
from ais.collector.replicas.dispatch import Dispatcher
from ais.collector.replicas.fleet import Fleet, Links
from ais.collector.replicas.proof import Expected
from ais.collector.replicas.sharing import WAIT_SECONDS, Sharing
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from tests.support.records import replica_record

GROUP = 8


def replica(name: str, version: int, slots: int = 64, **other: Any) -> ReplicaRecord:
    return replica_record(name, policy_version=version, policy_digest=f"blake3:{version}", slots=slots, **other)


class Records:
    """Stands for the registry."""

    def __init__(self, *records: ReplicaRecord) -> None:
        self.records = list(records)

    async def replicas(self) -> list[ReplicaRecord]:
        return self.records


@asynccontextmanager
async def fleet_of(*records: ReplicaRecord) -> AsyncIterator[tuple[Fleet, Records]]:
    """Replicas that have all said what they are, of a trainer at version 5."""
    announced, registry = Announced(), Records(*records)
    for version in range(6):
        announced.add(version, f"blake3:{version}")
    fleet = Fleet(
        cast(ReplicaRegistry, registry),
        Links(use_proxy=False, longest_response=100),
        cast(Expected, None),
        announced,
        Dispatcher(4),
        CollectorMetrics(CollectorRegistry()),
        changed=lambda: None,
    )
    await fleet._read()
    for member in fleet._members.values():
        member.proved = True
    try:
        yield fleet, registry
    finally:
        await fleet.close()


def send(fleet: Fleet, groups: int) -> int:
    """How many of so many open groups find a replica at once."""
    for sent in range(groups):
        chosen = fleet.choose(GROUP, 5, 5, None, (), waiting=(groups - sent) * GROUP)
        if chosen is None:
            return sent
        fleet.dispatcher.sent(chosen.replica_id, GROUP)
    return groups


async def test_the_first_replica_takes_its_part_by_slots_and_the_others_the_rest_when_they_serve() -> None:
    for first, second, part in ((64, 64, 8), (32, 96, 4)):
        async with fleet_of(replica("a", 5, first), replica("b", 4, second)) as (fleet, registry):
            assert send(fleet, 16) == part
            assert fleet._wanted.is_set()  # the registry is read often, until the other serves
            registry.records = [replica("a", 5, first), replica("b", 5, second)]
            await fleet._read()
            assert send(fleet, 16 - part) == 16 - part
            assert fleet.dispatcher.outstanding(registry.records[:1]) == part * GROUP


async def test_what_the_others_still_owe_is_work_of_theirs() -> None:
    """With staleness they are busy with an earlier batch; the one that is ahead takes more of what is new."""
    async with fleet_of(replica("a", 5), replica("b", 4)) as (fleet, _registry):
        fleet.dispatcher.sent("b", 4 * GROUP)
        assert send(fleet, 16) == 10


async def test_who_is_further_behind_not_ready_or_about_to_leave_is_not_waited_for() -> None:
    for other in (replica("b", 3), replica("b", 4, ready=False)):
        async with fleet_of(replica("a", 5), other) as (fleet, _registry):
            assert send(fleet, 16) == 16
    async with fleet_of(replica("a", 5), replica("b", 4)) as (fleet, _registry):
        fleet.dispatcher.handed_back("b")
        assert send(fleet, 16) == 16


async def test_one_that_has_nothing_to_do_takes_a_group_however_small_its_part() -> None:
    async with fleet_of(replica("a", 5), replica("b", 4, slots=10_000)) as (fleet, _registry):
        assert send(fleet, 16) == 1


def test_nobody_is_waited_for_longer_than_a_moment() -> None:
    sharing, able, others = Sharing(), [replica("a", 5)], [replica("b", 4)]
    first = sharing.most_load(able, others, 128, lambda _all: 0, 5, now=7.0)
    assert first == 1.0
    assert sharing.most_load(able, others, 128, lambda _all: 0, 5, now=7.0 + WAIT_SECONDS * 0.9) == 1.0
    assert sharing.most_load(able, others, 128, lambda _all: 0, 5, now=7.0 + WAIT_SECONDS) is None
