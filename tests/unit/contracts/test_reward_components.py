"""Components of a reward cross the wire as they are, or are refused with the field and the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ais.contracts.limits import field_label
from ais.contracts.malformed import MalformedRecordError
from ais.contracts.reward_components import LONGEST_FAILURE, MOST_COMPONENTS, JudgementFailure, RewardComponent
from ais.contracts.trajectory import TrajectoryBounds, decode_group, encode_group
from ais.contracts.v1 import trajectory_pb2 as pb
from tests.support.trainer_groups import make_group

BOUNDS = TrajectoryBounds(vocab_size=1000)


def test_components_and_redraw_come_back_as_they_were() -> None:
    failures = (JudgementFailure(1, "overtime", "judging took longer than 1 s"),)
    group = replace(
        make_group(0, samples=2),
        components=(
            RewardComponent("answer", 1.0, (1.0, 0.0), failures),
            RewardComponent("own.style", -0.5, (0.25, 0)),
        ),
        redraw=3,
    )
    back = decode_group(encode_group(group), BOUNDS)
    assert back.components == group.components
    assert back.redraw == 3


def test_an_entry_of_an_earlier_release_has_none() -> None:
    message = pb.ScoredGroup.FromString(encode_group(make_group(0)))
    message.ClearField("components")
    back = decode_group(message.SerializeToString(), BOUNDS)
    assert (back.components, back.redraw) == ((), 0)


@pytest.mark.parametrize("length", [LONGEST_FAILURE, 10 * LONGEST_FAILURE])
def test_a_reason_is_cut_and_made_printable_before_it_is_sent(length: int) -> None:
    failure = JudgementFailure(0, "error", "\x1b" * length)
    group = replace(make_group(0, samples=1), components=(RewardComponent("a", 1.0, (0.0,), (failure,)),))
    ((back,),) = [part.failures for part in decode_group(encode_group(group), BOUNDS).components]
    assert back.text.startswith("\\x1b")
    assert len(back.text) <= LONGEST_FAILURE


def spoilt(spoil: Callable[[pb.ScoredGroup], object]) -> bytes:
    group = replace(make_group(0, samples=2), components=(RewardComponent("a", 1.0, (1.0, 0.0)),))
    message = pb.ScoredGroup.FromString(encode_group(group))
    spoil(message)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda group: group.components[0].scores.append(1.0), "components[0].scores"),
        (lambda group: group.components[0].scores.__setitem__(0, float("nan")), "components[0].scores"),
        (lambda group: setattr(group.components[0], "weight", float("inf")), "components[0].scores"),
        (lambda group: setattr(group.components[0], "name", ""), "components[0]"),
        (lambda group: group.components[0].failures.add(index=2, outcome="died"), "components[0].failures"),
        (lambda group: group.components[0].failures.add(index=0, outcome=""), "components[0].failures"),
        (lambda group: group.components[0].failures.add(outcome="x", text="x" * 501), "components[0].failures"),
        (lambda group: group.components.extend([group.components[0]] * MOST_COMPONENTS), "components"),
    ],
)
def test_what_is_malformed_is_refused_by_its_field(spoil: Callable[[pb.ScoredGroup], object], field: str) -> None:
    with pytest.raises(MalformedRecordError) as refused:
        decode_group(spoilt(spoil), BOUNDS)
    assert refused.value.field == field
    assert field_label(field) != "other"
