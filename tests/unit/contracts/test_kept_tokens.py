"""Tokens that truncated sampling left to draw from, on the wire."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.trajectory import (
    MalformedRecordError,
    Trajectory,
    TrajectoryBounds,
    decode_group,
    decode_trajectory,
    encode_group,
    encode_trajectory,
)
from ais.contracts.truncation.kept import KeptTokens
from ais.contracts.v1 import trajectory_pb2 as pb
from tests.support.records import trajectory_of
from tests.support.trainer_groups import make_group

VOCABULARY = 20
BOUNDS = TrajectoryBounds(VOCABULARY)


@st.composite
def truncated(draw: st.DrawFn) -> Trajectory:
    """A response with the tokens kept beside each of its own."""
    tokens = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6))
    others = [draw(st.sets(st.integers(0, VOCABULARY - 1).filter(lambda one, own=own: one != own))) for own in tokens]
    return trajectory_of(tokens, kept=KeptTokens.of([np.array(sorted(one), dtype=np.int32) for one in others]))


@given(truncated())
def test_they_come_back_as_they_were(trajectory: Trajectory) -> None:
    assert trajectory.kept is not None
    read = decode_trajectory(encode_trajectory(trajectory), BOUNDS).kept
    assert read is not None
    assert read.counts.tolist() == trajectory.kept.counts.tolist()
    assert read.token_ids.tolist() == trajectory.kept.token_ids.tolist()


SPOILED: dict[str, tuple[Callable[[pb.KeptTokens], None], str]] = {
    "a count is missing": (lambda kept: setattr(kept, "counts", kept.counts[:-4]), "kept.counts"),
    "a count is negative": (lambda kept: setattr(kept, "counts", ints(-1, 4)), "kept.counts"),
    "more than there are": (lambda kept: setattr(kept, "counts", ints(VOCABULARY, 1)), "kept.counts"),
    "a token is missing": (lambda kept: setattr(kept, "token_ids", ints(4, 5)), "kept.token_ids"),
    "a token is unknown": (lambda kept: setattr(kept, "token_ids", ints(4, VOCABULARY, 6)), "kept.token_ids"),
    "the sampled token": (lambda kept: setattr(kept, "token_ids", ints(4, 1, 6)), "kept.token_ids"),
    "one of them twice": (lambda kept: setattr(kept, "token_ids", ints(4, 4, 6)), "kept.token_ids"),
}


def ints(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


@pytest.mark.parametrize("name", SPOILED)
def test_what_cannot_be_is_refused_by_its_field(name: str) -> None:
    others = [np.array([4, 5], dtype=np.int32), np.array([6], dtype=np.int32)]
    message = encode_trajectory(trajectory_of([1, 2], kept=KeptTokens.of(others)))
    spoil, field = SPOILED[name]
    spoil(message.kept)
    with pytest.raises(MalformedRecordError) as error:
        decode_trajectory(message, BOUNDS)
    assert error.value.field == f"trajectory.{field}"


def test_a_group_with_kept_tokens_is_no_message_that_an_earlier_release_would_misread() -> None:
    group = make_group(0, samples=1, top_k=3)
    tokens = len(group.trajectories[0].token_ids)
    object.__setattr__(group.trajectories[0], "kept", KeptTokens.of([np.array([17], dtype=np.int32)] * tokens))
    payload = encode_group(group)
    assert pb.ScoredGroup.FromString(payload).schema_version == 3
    (read,) = decode_group(payload, TrajectoryBounds(VOCABULARY)).trajectories
    assert read.kept is not None
    assert read.kept.counts.tolist() == [1] * tokens


def test_a_kept_token_costs_4_bytes_and_its_place_4() -> None:
    plain = trajectory_of([1] * 256)
    kept = trajectory_of([1] * 256, kept=KeptTokens.of([np.arange(2, 5, dtype=np.int32)] * 256))
    sizes = [len(encode_trajectory(one).SerializeToString()) for one in (plain, kept)]
    assert sizes[1] - sizes[0] <= 256 * (4 + 3 * 4) + 16
