"""Work goes to the least loaded replica that may take it."""

from __future__ import annotations

from ais.collector.replicas.dispatch import FIRST_REST_SECONDS, Dispatcher
from ais.contracts.registry import ReplicaRecord
from tests.support.records import replica_record


def replica(name: str, version: int = 0, slots: int = 16, ready: bool = True) -> ReplicaRecord:
    return replica_record(
        name,
        grpc_address=f"{name}:1",
        http_url=f"http://{name}:2",
        engine="torch",
        policy_version=version,
        policy_digest="",
        ready=ready,
        slots=slots,
    )


def choose(
    dispatcher: Dispatcher, *replicas: ReplicaRecord, version: int = 0, now: float = 0.0, avoid: str = ""
) -> str:
    chosen = dispatcher.choose(replicas, 8, version, now, avoid=avoid or None)
    return chosen.replica_id if chosen else "none"


def test_the_least_loaded_replica_relative_to_its_slots_is_chosen() -> None:
    dispatcher = Dispatcher(queue_factor=2)
    dispatcher.sent("small", 8)
    dispatcher.sent("large", 16)
    assert choose(dispatcher, replica("small", slots=16), replica("large", slots=64)) == "large"


def test_a_full_replica_gets_nothing_until_it_has_room() -> None:
    dispatcher = Dispatcher(queue_factor=1)
    dispatcher.sent("a", 16)
    assert choose(dispatcher, replica("a")) == "none"
    dispatcher.settled("a", 8)
    assert choose(dispatcher, replica("a")) == "a"


def test_room_is_made_by_each_sequence_that_arrives_not_by_whole_groups() -> None:
    dispatcher = Dispatcher(queue_factor=1.5)
    dispatcher.sent("a", 24)
    for _ in range(7):
        dispatcher.settled("a")
    assert choose(dispatcher, replica("a")) == "none"
    dispatcher.settled("a")
    assert choose(dispatcher, replica("a")) == "a"


def test_a_replica_that_hands_a_call_back_gets_no_more_until_its_record_is_gone() -> None:
    dispatcher = Dispatcher(2)
    dispatcher.sent("a", 8)
    dispatcher.settled("a", 8)
    dispatcher.handed_back("a")
    assert choose(dispatcher, replica("a"), now=1e9) == "none"
    assert choose(dispatcher, replica("a"), replica("b")) == "b"
    assert not dispatcher.may_sample(replica("a"), 0)
    dispatcher.forget_except({"b"})
    assert dispatcher.may_sample(replica("a"), 0)


def test_a_group_larger_than_all_slots_goes_to_an_idle_replica() -> None:
    assert choose(Dispatcher(queue_factor=1), replica("a", slots=4)) == "a"


def test_a_replica_with_too_old_a_policy_gets_nothing() -> None:
    assert choose(Dispatcher(2), replica("old", version=3), replica("new", version=4), version=4) == "new"
    assert choose(Dispatcher(2), replica("old", version=3), version=4) == "none"


def test_a_replica_that_is_not_ready_gets_nothing() -> None:
    assert choose(Dispatcher(2), replica("a", ready=False)) == "none"


def test_a_failed_replica_rests_longer_each_time_and_is_cleared_by_success() -> None:
    dispatcher = Dispatcher(2)
    now = 0.0
    for failures in range(3):
        dispatcher.failed("a", now)
        rest = FIRST_REST_SECONDS * 2**failures
        assert choose(dispatcher, replica("a"), now=now + rest * 0.99) == "none"
        now += rest
        assert choose(dispatcher, replica("a"), now=now) == "a"
    dispatcher.succeeded("a")
    assert choose(dispatcher, replica("a"), now=0.0) == "a"


def test_a_retry_goes_to_another_replica_if_there_is_one() -> None:
    dispatcher = Dispatcher(2)
    dispatcher.sent("b", 16)
    assert choose(dispatcher, replica("a"), replica("b"), avoid="a") == "b"
    assert choose(dispatcher, replica("a"), avoid="a") == "a"


def test_a_replica_that_refused_the_group_gets_it_never_again_even_if_it_is_the_only_one() -> None:
    dispatcher = Dispatcher(2)
    assert dispatcher.choose([replica("a")], 8, 0, 0.0, excluded={"a"}) is None
    chosen = dispatcher.choose([replica("a"), replica("b")], 8, 0, 0.0, avoid="b", excluded={"a"})
    assert chosen is not None
    assert chosen.replica_id == "b"


def test_what_a_vanished_replica_owes_is_remembered_until_it_is_settled() -> None:
    dispatcher = Dispatcher(1)
    dispatcher.sent("a", 16)
    dispatcher.forget_except(set())
    assert choose(dispatcher, replica("a")) == "none"
    dispatcher.settled("a", 16)
    dispatcher.forget_except(set())
    assert choose(dispatcher, replica("a")) == "a"


def test_calls_that_fail_together_are_one_failure() -> None:
    dispatcher = Dispatcher(2)
    for _ in range(10):
        dispatcher.failed("a", now=0.0)
    assert choose(dispatcher, replica("a"), now=FIRST_REST_SECONDS) == "a"


def test_the_rest_stays_bounded_however_long_a_replica_fails() -> None:
    dispatcher = Dispatcher(2)
    for failures in range(5000):
        dispatcher.failed("a", now=failures * 10.0)
    assert choose(dispatcher, replica("a"), now=5000 * 10.0) == "a"
