"""The intake's policy: what is buffered, what is a duplicate, what is refused and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ais.contracts.queue import ALIEN_ORDINAL, Entry
from ais.contracts.routing.routed import RoutedExperts
from ais.contracts.routing.shape import RoutingShape
from ais.contracts.trajectory import ScoredGroup, Trajectory
from ais.runtime.settings import RunSettings
from ais.trainer.groups.intake import Buffered, Duplicate, Intake, Known, Refused
from tests.support.trainer_groups import make_entry, make_group

RUN = RunSettings(groups_per_batch=2, samples_per_group=4, max_staleness=1)


def new_intake(run: RunSettings = RUN) -> Intake:
    return Intake(run, vocab_size=22, context_length=64)


def test_a_batch_is_its_ordinals_in_order_however_they_arrive() -> None:
    intake = new_intake()
    for ordinal in (3, 1, 2):
        assert isinstance(intake.judge(make_entry(make_group(ordinal))), Buffered)
    assert not intake.complete()
    intake.judge(make_entry(make_group(0)))
    assert intake.complete()
    assert [item.group.ordinal for item in intake.take()] == [0, 1]
    intake.advance()
    assert [item.group.ordinal for item in intake.take()] == [2, 3]


@pytest.mark.parametrize("trained", [False, True])
def test_an_ordinal_that_is_buffered_or_trained_is_a_duplicate(trained: bool) -> None:
    intake = new_intake()
    for ordinal in (0, 1):
        intake.judge(make_entry(make_group(ordinal)))
    if trained:
        intake.take()
        intake.advance()
    assert intake.judge(make_entry(make_group(0), entry_id="99-0")) == Duplicate()


def test_an_entry_delivered_again_is_known_until_it_is_acknowledged() -> None:
    intake = new_intake()
    entries = [make_entry(make_group(ordinal)) for ordinal in (0, 1)]
    for entry in entries:
        intake.judge(entry)
    intake.take()
    assert intake.judge(entries[0]) == Known()
    intake.forget(entry.entry_id for entry in entries)
    assert intake.judge(entries[0]) == Duplicate()


def refusal(group: ScoredGroup, run: RunSettings = RUN) -> Refused:
    verdict = new_intake(run).judge(make_entry(group))
    assert isinstance(verdict, Refused)
    return verdict


def test_bytes_that_are_no_group_are_refused() -> None:
    verdict = new_intake().judge(Entry("1-0", 0, b"\xff\xff"))
    assert isinstance(verdict, Refused)
    assert verdict.field == "group"


def test_a_group_under_another_ordinal_is_refused() -> None:
    verdict = new_intake().judge(make_entry(make_group(1), ordinal=0))
    assert verdict == Refused("ordinal", "the entry says 0, its group says 1")


def test_an_ordinal_that_admission_cannot_have_started_is_refused() -> None:
    assert isinstance(new_intake().judge(make_entry(make_group(3))), Buffered)
    assert "only ordinals below 4 are" in refusal(make_group(4)).reason


def test_a_group_of_another_size_is_refused() -> None:
    assert "run.samples_per_group = 4, got 3" in refusal(make_group(0, samples=3)).reason


def test_staleness_is_judged_at_the_version_that_the_batch_is_trained_at() -> None:
    run = RunSettings(groups_per_batch=2, samples_per_group=4, max_staleness=0)
    intake = new_intake(run)
    for ordinal in (0, 1):
        intake.judge(make_entry(make_group(ordinal)))
    intake.take()
    intake.advance()
    stale = intake.judge(make_entry(make_group(2, version=0)))
    assert isinstance(stale, Refused)
    assert stale.field == "staleness"
    assert "sampled by version 0, trained at version 1: 1 versions behind" in stale.reason
    assert isinstance(intake.judge(make_entry(make_group(2, version=1))), Buffered)


def test_tokens_of_a_version_that_does_not_exist_are_refused() -> None:
    assert refusal(make_group(0, version=1)).field == "trajectories[0].spans[0].version"


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"temperature": 0.0}, "trajectories[0].sampling.temperature"),
        ({"top_p": 0.9}, "trajectories[0].kept"),
        ({"top_k": 5}, "trajectories[0].kept"),
        ({"min_p": 0.1}, "trajectories[0].kept"),
    ],
)
def test_sampling_that_cannot_be_trained_on_is_refused(sampling: dict[str, float], field: str) -> None:
    assert refusal(make_group(0, **sampling)).field == field


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    group = replace(make_group(0), prompt_token_ids=np.full(60, 5, dtype=np.int32))
    assert "the model's context 64" in refusal(group).reason


def with_experts(group: ScoredGroup, experts: int) -> ScoredGroup:
    """Each token read by the first two of so many, in three layers."""

    def routed(trajectory: Trajectory) -> RoutedExperts:
        read = len(group.prompt_token_ids) + len(trajectory.token_ids) - 1
        return RoutedExperts(np.tile(np.arange(2, dtype=np.uint8), (read, 3, 1)), experts)

    return replace(group, trajectories=tuple(replace(one, routed=routed(one)) for one in group.trajectories))


def test_where_routing_is_replayed_responses_need_the_experts_of_a_model_like_the_policy() -> None:
    intake = Intake(RUN, vocab_size=22, context_length=64, routing=RoutingShape((0, 1, 2), 8, 2))
    for group, reason in (
        (make_group(0), "replica does not tell them"),
        (with_experts(make_group(0), experts=4), "expected 2 of 8 experts in 3 layers"),
    ):
        verdict = intake.judge(make_entry(group))
        assert isinstance(verdict, Refused)
        assert verdict.field == "trajectories[0].routed"
        assert reason in verdict.reason
    assert isinstance(intake.judge(make_entry(with_experts(make_group(0), experts=8))), Buffered)


def test_an_entry_that_no_collector_wrote_is_refused_at_any_version() -> None:
    intake = new_intake()
    alien = Entry("9-0", ALIEN_ORDINAL, b"")
    assert isinstance(intake.judge(alien), Refused)
    for ordinal in (0, 1):
        intake.judge(make_entry(make_group(ordinal)))
    intake.take()
    intake.advance()
    assert isinstance(intake.judge(alien), Refused)
