"""Staleness is bounded at the source, whatever happens and in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ais.collector.admission import Admission


def start_all(admission: Admission) -> list[int]:
    return [admission.start() for _ in range(admission.open)]


def test_nothing_is_admitted_before_the_trainer_has_spoken() -> None:
    assert Admission(4, 1, 10).peek() is None


@pytest.mark.parametrize(("staleness", "admitted"), [(0, 4), (1, 8), (3, 16)])
def test_the_first_version_admits_staleness_plus_one_batches(staleness: int, admitted: int) -> None:
    admission = Admission(4, staleness, 100)
    admission.advance(0)
    assert start_all(admission) == list(range(admitted))


def test_each_version_admits_one_more_batch() -> None:
    admission = Admission(4, 1, 100)
    admission.advance(0)
    for ordinal in start_all(admission):
        admission.accept(ordinal)
    admission.advance(1)
    assert start_all(admission) == [8, 9, 10, 11]


def test_the_last_batches_admit_nothing_beyond_the_run() -> None:
    admission = Admission(4, 5, 2)
    admission.advance(0)
    assert start_all(admission) == list(range(8))


def test_a_batch_needs_a_replica_within_the_staleness_bound() -> None:
    admission = Admission(4, 1, 100)
    assert [admission.required_version(ordinal) for ordinal in (0, 4, 8, 12)] == [0, 0, 1, 2]


def test_a_failed_group_is_started_again_before_later_ones() -> None:
    admission = Admission(4, 1, 100)
    admission.advance(0)
    for _ in range(3):
        admission.start()
    admission.fail(1)
    assert admission.start() == 1


def test_a_discarded_group_is_started_again() -> None:
    admission = Admission(2, 0, 100)
    admission.advance(0)
    for ordinal in start_all(admission):
        admission.accept(ordinal)
    admission.discard(0)
    admission.discard(0)
    assert start_all(admission) == [0]


def test_a_refusal_that_overtakes_the_publication_is_not_forgotten() -> None:
    admission = Admission(2, 0, 100)
    admission.advance(0)
    start_all(admission)
    admission.discard(1)
    assert admission.open == 0
    admission.accept(1)
    assert start_all(admission) == [1]


def test_a_restarted_collector_only_starts_what_is_missing() -> None:
    admission = Admission(2, 1, 100)
    admission.resume(3, accepted={6, 9})
    assert start_all(admission) == [7, 8]


def test_a_trainer_that_resumed_at_an_older_version_gets_what_the_queue_lacks_again() -> None:
    admission = Admission(2, 1, 100)
    admission.advance(0)
    for version in (1, 2, 3):
        for ordinal in start_all(admission):
            admission.accept(ordinal)
        admission.advance(version)
    running = start_all(admission)
    assert running == [8, 9]
    assert admission.peek() is None
    admission.resume(1, accepted={2, 3, 7})
    assert admission.version == 1
    assert start_all(admission) == [4, 5]
    admission.advance(2)
    assert start_all(admission) == [6]
    admission.advance(3)
    assert start_all(admission) == [], "8 and 9 run since before"


def test_what_runs_while_the_trainer_resumes_is_accepted_when_it_comes() -> None:
    admission = Admission(2, 0, 100)
    admission.advance(1)
    assert start_all(admission) == [2, 3]
    admission.resume(1, accepted={2})  # its publication is in the queue, the answer is on its way
    admission.accept(2)
    admission.fail(3)
    assert start_all(admission) == [3]


def test_a_group_of_a_trained_batch_is_not_started_again() -> None:
    admission = Admission(2, 1, 100)
    admission.advance(0)
    ordinals = start_all(admission)
    admission.advance(1)
    admission.fail(ordinals[0])
    assert start_all(admission) == [4, 5]


@given(st.integers(1, 5), st.integers(0, 3), st.integers(1, 6))
def test_every_ordinal_is_started_exactly_once_in_a_calm_run(batch: int, staleness: int, batches: int) -> None:
    admission = Admission(batch, staleness, batches)
    started: list[int] = []
    for version in range(batches):
        admission.advance(version)
        for ordinal in start_all(admission):
            started.append(ordinal)
            admission.accept(ordinal)
    assert started == list(range(batch * batches))


def test_the_refusal_of_an_ordinal_that_is_not_admitted_opens_nothing() -> None:
    admission = Admission(2, 0, 100)
    admission.advance(0)
    start_all(admission)
    admission.discard(7)
    assert admission.open == 0
    admission.advance(3)
    assert start_all(admission) == [6, 7]


class AnyOrder(RuleBasedStateMachine):
    """Versions, starts, failures, acceptances and discards in any order keep the bound."""

    @initialize(batch=st.integers(1, 4), staleness=st.integers(0, 3))
    def begin(self, batch: int, staleness: int) -> None:
        self.batch, self.staleness = batch, staleness
        self.admission = Admission(batch, staleness, 50)
        self.running: set[int] = set()
        self.accepted: set[int] = set()
        self.version = -1

    @rule()
    def next_version(self) -> None:
        self.version += 1
        self.admission.advance(self.version)
        self.accepted = {ordinal for ordinal in self.accepted if ordinal >= self.version * self.batch}

    @precondition(lambda self: self.version >= 0)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.version = data.draw(st.integers(0, self.version))
        self.accepted = {ordinal for ordinal in self.accepted if data.draw(st.booleans())}
        self.admission.resume(self.version, set(self.accepted))
        self.accepted = {ordinal for ordinal in self.accepted if ordinal >= self.version * self.batch}

    @precondition(lambda self: self.admission.peek() is not None)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        waiting = list(self.admission.in_order())
        assert waiting == sorted(waiting)
        assert waiting[0] == self.admission.peek()
        wanted = data.draw(st.none() | st.sampled_from(waiting))
        ordinal = self.admission.start(wanted)
        assert ordinal == (waiting[0] if wanted is None else wanted)
        assert ordinal not in self.running
        assert ordinal not in self.accepted
        assert ordinal < (self.version + self.staleness + 1) * self.batch
        assert self.admission.required_version(ordinal) <= self.version
        self.running.add(ordinal)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(["accept", "fail"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        ordinal = data.draw(st.sampled_from(sorted(self.running)))
        self.running.remove(ordinal)
        getattr(self.admission, outcome)(ordinal)
        if outcome == "accept" and ordinal >= self.version * self.batch:
            self.accepted.add(ordinal)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        ordinal = data.draw(st.sampled_from(sorted(self.accepted)))
        self.accepted.remove(ordinal)
        self.admission.discard(ordinal)

    @invariant()
    def nothing_is_lost(self) -> None:
        if self.version < 0:
            return
        begin = self.version * self.batch
        end = min((self.version + self.staleness + 1) * self.batch, 50 * self.batch)
        live = {ordinal for ordinal in self.running | self.accepted if begin <= ordinal < end}
        assert self.admission.open == max(0, end - begin) - len(live)
        assert self.admission.running == len(self.running)
        assert self.admission.accepted == {ordinal for ordinal in self.accepted if ordinal >= begin}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100)
