"""When a group came to each place, on the wire."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ais.contracts.journey.description import described
from ais.contracts.journey.times import Journey
from ais.contracts.limits import field_label
from ais.contracts.trajectory import MalformedRecordError, TrajectoryBounds, decode_group, encode_group, group_id_of
from ais.contracts.turns import Turn
from tests.support.trainer_groups import make_group

BOUNDS = TrajectoryBounds(vocab_size=100)
JOURNEY = Journey(
    drawn=1_764_000_000.125,
    sent=1_764_000_001.5,
    answered=1_764_000_003.25,
    judged=1_764_000_003.5,
    admitted_version=0,
    traceparent=f"00-{'a1' * 16}-{'b2' * 8}-01",
)


def test_a_journey_crosses_the_wire_to_the_bit() -> None:
    group = replace(make_group(3), journey=JOURNEY)
    assert decode_group(encode_group(group), BOUNDS).journey == JOURNEY
    assert len(encode_group(group)) - len(encode_group(replace(group, journey=None))) <= 100


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1.0, 1e12])
def test_a_time_that_is_none_is_refused_by_its_field(time: float) -> None:
    with pytest.raises(MalformedRecordError, match="Unix time") as refused:
        decode_group(encode_group(replace(make_group(3), journey=replace(JOURNEY, sent=time))), BOUNDS)
    assert field_label(refused.value.field) == "journey.sent"


def test_a_journey_of_an_earlier_release_does_not_say_what_admitted_it() -> None:
    earlier = replace(make_group(3), journey=replace(JOURNEY, admitted_version=None, traceparent=""))
    assert described(decode_group(encode_group(earlier), BOUNDS), "5-0")["admitted_version"] is None


def test_a_version_that_is_none_is_refused_by_its_field() -> None:
    with pytest.raises(MalformedRecordError, match="below 2\\^53") as refused:
        decode_group(encode_group(replace(make_group(3), journey=replace(JOURNEY, admitted_version=2**60))), BOUNDS)
    assert field_label(refused.value.field) == "journey.admitted_version"


@pytest.mark.parametrize("text", ["nonsense", f"00-{'a1' * 16}-{'b2' * 8}-01-more", "x" * 10_000])
def test_a_traceparent_that_is_none_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(MalformedRecordError, match="traceparent") as refused:
        decode_group(encode_group(replace(make_group(3), journey=replace(JOURNEY, traceparent=text))), BOUNDS)
    assert field_label(refused.value.field) == "journey.traceparent"


def test_tokens_are_timed_from_when_the_group_was_sent() -> None:
    told = described(replace(make_group(3), journey=JOURNEY), "5-0")
    assert (told["first_token"], told["last_token"]) == (JOURNEY.sent + 0.1, JOURNEY.sent + 0.2)
    assert (told["drawn"], told["judged"]) == (JOURNEY.drawn, JOURNEY.judged)


def test_the_tokens_of_an_episode_have_no_time_of_their_own() -> None:
    group = make_group(3)
    played = tuple(
        replace(one, turns=(Turn(one.token_ids[:0], len(one.token_ids), one.finish_reason, 8),))
        for one in group.trajectories
    )
    told = described(replace(group, trajectories=played, journey=JOURNEY), "5-0")
    assert (told["first_token"], told["last_token"], told["answered"]) == (None, None, JOURNEY.answered)


def test_a_group_of_an_earlier_release_has_no_times() -> None:
    told = described(make_group(3), "5-0")
    assert (told["group_id"], told["drawn"], told["first_token"]) == ("group-3", None, None)


def test_the_name_of_a_group_is_read_whatever_else_is_wrong_with_it() -> None:
    assert group_id_of(encode_group(replace(make_group(3), rewards=()))) == "group-3"
    assert group_id_of(b"\xff\xff") == ""
