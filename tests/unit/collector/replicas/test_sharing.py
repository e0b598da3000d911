"""The first replica to serve a version leaves the others their part, for a moment."""

from __future__ import annotations

from ais.collector.replicas.dispatch import Dispatcher
from ais.collector.replicas.sharing import WAIT_SECONDS, Sharing
from ais.contracts.registry import ReplicaRecord
from tests.support.records import replica_record

GROUP = 8


def replica(name: str, version: int, slots: int = 64, ready: bool = True) -> ReplicaRecord:
    return replica_record(name, policy_version=version, slots=slots, ready=ready)


def sent_at_once(
    dispatcher: Dispatcher, sharing: Sharing, replicas: list[ReplicaRecord], groups: int, now: float
) -> int:
    """How many of so many open groups of version 5 find a replica."""
    able = [one for one in replicas if one.policy_version >= 5]
    others = [one for one in replicas if one not in able]
    for sent in range(groups):
        due = (groups - sent) * GROUP + dispatcher.outstanding(able)
        most_load = sharing.most_load(able, others, due, 5, now)
        chosen = dispatcher.choose(able, GROUP, 5, now, most_load=most_load)
        if chosen is None:
            return sent
        dispatcher.sent(chosen.replica_id, GROUP)
    return groups


def test_the_first_replica_takes_its_part_by_slots_while_the_others_are_about_to_serve() -> None:
    even = [replica("a", 5), replica("b", 4)]
    assert sent_at_once(Dispatcher(4), Sharing(), even, 16, now=0.0) == 8
    smaller = [replica("a", 5, slots=32), replica("b", 4, slots=96)]
    assert sent_at_once(Dispatcher(4), Sharing(), smaller, 16, now=0.0) == 4


def test_the_others_take_the_rest_when_they_serve() -> None:
    dispatcher, sharing = Dispatcher(4), Sharing()
    assert sent_at_once(dispatcher, sharing, [replica("a", 5), replica("b", 4)], 16, now=0.0) == 8
    both = [replica("a", 5), replica("b", 5)]
    assert sent_at_once(dispatcher, sharing, both, 8, now=0.1) == 8
    assert dispatcher.outstanding([both[0]]) == dispatcher.outstanding([both[1]]) == 8 * GROUP


def test_nobody_waits_longer_than_a_moment() -> None:
    dispatcher, sharing = Dispatcher(4), Sharing()
    replicas = [replica("a", 5), replica("b", 4)]
    assert sent_at_once(dispatcher, sharing, replicas, 16, now=0.0) == 8
    assert sent_at_once(dispatcher, sharing, replicas, 8, now=WAIT_SECONDS * 0.9) == 0
    assert sent_at_once(dispatcher, sharing, replicas, 8, now=WAIT_SECONDS) == 8


def test_a_replica_that_is_further_behind_or_not_ready_is_not_waited_for() -> None:
    for other in (replica("b", 3), replica("b", 4, ready=False)):
        assert sent_at_once(Dispatcher(4), Sharing(), [replica("a", 5), other], 16, now=0.0) == 16


def test_one_that_has_nothing_to_do_takes_a_group_however_small_its_part() -> None:
    assert sent_at_once(Dispatcher(4), Sharing(), [replica("a", 5), replica("b", 4)], 1, now=0.0) == 1
