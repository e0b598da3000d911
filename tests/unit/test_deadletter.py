"""What `ais deadletter` makes of a letter, whatever bytes are in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.dead_letters import DeadLetter
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.deadletter import _described, _row

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=True, width=32)


@st.composite
def groups(draw: st.DrawFn) -> bytes:
    """Messages that decode, with anything in their fields."""
    message = pb.ScoredGroup(
        group_id=draw(TEXTS),
        task=draw(TEXTS),
        prompt_token_ids=draw(st.binary(max_size=9)),
        rewards=draw(st.lists(NUMBERS)),
    )
    for _ in range(draw(st.integers(0, 2))):
        one = message.trajectories.add(
            trajectory_id=draw(TEXTS), engine=draw(TEXTS), token_ids=draw(st.binary(max_size=9))
        )
        one.spans.add(version=draw(st.integers(0, 2**31)), begin=draw(st.integers(0, 9)), end=draw(st.integers(0, 9)))
        one.sampling.temperature = draw(NUMBERS)
        one.precision.weights = draw(TEXTS)
    return bytes(message.SerializeToString())


@given(
    payload=st.binary(max_size=200) | groups(),
    milliseconds=st.integers(0, 2**64 - 1),
    ordinal=st.integers(-1, 10**30),
    reason=st.binary(max_size=50),
)
def test_a_letter_of_any_bytes_has_a_row_and_a_description(
    payload: bytes, milliseconds: int, ordinal: int, reason: bytes
) -> None:
    letter = DeadLetter(f"{milliseconds}-0", "0-1", ordinal, reason.decode(errors="replace"), payload)
    assert _row(letter)["bytes"] == len(payload)
    assert len(list(_described(letter))) >= 6
