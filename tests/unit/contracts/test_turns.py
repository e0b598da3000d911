"""Trajectories of several turns on the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.contracts.limits import OTHER_FIELD, field_label
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import (
    MalformedRecordError,
    PolicySpan,
    ScoredGroup,
    Trajectory,
    TrajectoryBounds,
    decode_group,
    encode_group,
    encode_trajectory,
)
from ais.contracts.v1 import trajectory_pb2 as pb
from tests.support.records import trajectory_of
from tests.support.turns.episodes import episode_of

VOCABULARY = 100
BOUNDS = TrajectoryBounds(vocab_size=VOCABULARY, newest_version=7)

shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)
beginnings = st.sets(st.integers(1, 5))
"""Turns that begin anew, where there are so many."""


def group_of(*trajectories: Trajectory) -> ScoredGroup:
    return ScoredGroup(
        group_id="group",
        ordinal=9,
        prompt_id="p",
        prompt_token_ids=np.arange(4, dtype=np.int32),
        trajectories=trajectories,
        rewards=(0.5,) * len(trajectories),
        task="t",
        attempt=1,
    )


@given(shape=shapes, anew=beginnings)
def test_an_episode_comes_back_from_the_wire_as_it_was(shape: list[tuple[int, int]], anew: set[int]) -> None:
    sent = episode_of(shape, anew=anew)
    (got,) = decode_group(encode_group(group_of(sent)), BOUNDS).trajectories
    np.testing.assert_array_equal(got.token_ids, sent.token_ids)
    np.testing.assert_array_equal(got.behaviour_logprobs, sent.behaviour_logprobs)
    assert got.spans == sent.spans
    assert len(got.turns) == len(sent.turns)
    for left, right in zip(got.turns, sent.turns, strict=True):
        np.testing.assert_array_equal(left.context_token_ids, right.context_token_ids)
        assert replace(left, context_token_ids=()) == replace(right, context_token_ids=())  # type: ignore[arg-type]


@given(shape=shapes)
def test_what_follows_the_prompt_is_sampled_tokens_and_context_in_order(shape: list[tuple[int, int]]) -> None:
    episode = episode_of(shape)
    text = episode.text_token_ids
    assert text[episode.sampled].tolist() == episode.token_ids.tolist()
    context = [one for turn in episode.turns for one in turn.context_token_ids.tolist()]
    assert text[~episode.sampled].tolist() == context
    assert [part.sampled for part in episode.segments] == [True] + [False, True] * (len(shape) - 1)
    assert np.concatenate([part.token_ids for part in episode.segments]).tolist() == text.tolist()


@given(shape=shapes, anew=beginnings)
def test_each_sampled_token_is_in_one_passage_behind_what_it_was_sampled_after(
    shape: list[tuple[int, int]], anew: set[int]
) -> None:
    episode, prompt = episode_of(shape, anew=anew), np.array([15, 16], dtype=np.int32)
    read, sampled, expected = prompt.tolist(), iter(episode.token_ids.tolist()), []
    for turn in episode.turns:
        read = [*([] if turn.begins_anew else read), *turn.context_token_ids.tolist()]
        for _ in range(turn.tokens):
            expected.append(([*read], token := next(sampled)))
            read.append(token)
    found = []
    for passage in episode.passages(prompt):
        whole = [*passage.prompt_token_ids.tolist(), *passage.text_token_ids.tolist()]
        assert len(passage) == len(whole)
        places = np.flatnonzero(passage.sampled) + len(passage.prompt_token_ids)
        found += [(whole[:place], whole[place]) for place in places.tolist()]
    assert found == expected


def test_a_single_response_is_one_sampled_segment() -> None:
    response = trajectory_of([1, 2, 3])
    assert response.sampled.all()
    assert response.text_token_ids is response.token_ids
    assert [part.sampled for part in response.segments] == [True]


def test_a_group_without_turns_is_the_message_that_an_earlier_release_reads() -> None:
    message = pb.ScoredGroup.FromString(encode_group(group_of(trajectory_of([1, 2, 3], spans=(PolicySpan(3, 0, 3),)))))
    assert message.schema_version == 1
    assert not message.trajectories[0].turns
    assert pb.ScoredGroup.FromString(encode_group(group_of(episode_of([(1, 2), (3, 1)])))).schema_version == 2


def test_a_group_with_a_turn_that_begins_anew_has_a_layout_that_an_earlier_release_refuses() -> None:
    message = pb.ScoredGroup.FromString(encode_group(group_of(episode_of([(1, 2), (3, 1)], anew={1}))))
    assert message.schema_version == 4


def test_a_sampled_token_costs_8_bytes_and_a_context_token_4() -> None:
    turns, sampled, context = 16, 256, 512
    episode = episode_of([(context, sampled)] * turns)
    assert len(encode_trajectory(episode).SerializeToString()) <= turns * (8 * sampled + 4 * context + 40) + 300


def test_an_episode_tells_the_oldest_version_and_how_many_it_spans() -> None:
    episode = replace(episode_of([(1, 2), (3, 4)]), spans=(PolicySpan(3, 0, 2), PolicySpan(5, 2, 6)))
    assert (episode.oldest_version, episode.version_span) == (3, 2)


def last(message: pb.ScoredGroup) -> pb.Turn:
    return message.trajectories[0].turns[-1]


MALFORMED: dict[str, tuple[Callable[[pb.ScoredGroup], object], str]] = {
    "a turn of no tokens": (lambda g: setattr(last(g), "tokens", 0), "turns[1].tokens"),
    "more tokens than the turn might have": (lambda g: setattr(last(g), "max_new_tokens", 2), "turns[1].tokens"),
    "turns that cover too few tokens": (lambda g: setattr(last(g), "tokens", 2), "turns"),
    "turns that cover too many tokens": (lambda g: setattr(last(g), "tokens", 4), "turns"),
    "no context between two turns": (lambda g: last(g).ClearField("context_token_ids"), "turns[1].context_token_ids"),
    "context before the first turn": (
        lambda g: setattr(g.trajectories[0].turns[0], "context_token_ids", bytes(4)),
        "turns[0].context_token_ids",
    ),
    "a context token outside the vocabulary": (
        lambda g: setattr(last(g), "context_token_ids", np.array([100], dtype="<i4").tobytes()),
        "turns[1].context_token_ids",
    ),
    "a first turn that begins anew": (
        lambda g: setattr(g.trajectories[0].turns[0], "begins_anew", True),
        "turns[0].begins_anew",
    ),
    "half a context token": (lambda g: setattr(last(g), "context_token_ids", bytes(6)), "turns[1].context_token_ids"),
    "no reason why a turn ended": (lambda g: last(g).ClearField("finish_reason"), "turns[1].finish_reason"),
    "another end than the last turn's": (
        lambda g: setattr(g.trajectories[0], "finish_reason", pb.FINISH_REASON_LENGTH),
        "finish_reason",
    ),
    "spans that count context tokens": (
        lambda g: setattr(g.trajectories[0].spans[-1], "end", g.trajectories[0].spans[-1].end + 2),
        "spans",
    ),
    "log-probs for context tokens": (
        lambda g: setattr(g.trajectories[0], "behaviour_logprobs", bytes(4 * 7)),
        "behaviour_logprobs",
    ),
    "more turns than there may be": (
        lambda g: g.trajectories[0].turns.extend([g.trajectories[0].turns[-1]] * 5_000),
        "turns",
    ),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_episode_is_refused_with_field_and_reason(fault: str) -> None:
    spoil, field = MALFORMED[fault]
    message = pb.ScoredGroup.FromString(encode_group(group_of(episode_of([(2, 2), (2, 3)]))))
    spoil(message)
    with pytest.raises(MalformedRecordError) as refused:
        decode_group(message.SerializeToString(), BOUNDS)
    assert refused.value.field == f"trajectories[0].{field}"
    assert field_label(refused.value.field) != OTHER_FIELD


def test_versions_go_back_where_a_turn_begins_anew_and_nowhere_else() -> None:
    older = {"spans": (PolicySpan(3, 0, 2), PolicySpan(1, 2, 6))}
    decode_group(encode_group(group_of(episode_of([(1, 2), (3, 4)], anew={1}, **older))), BOUNDS)
    for other in (episode_of([(1, 2), (3, 4)], **older), episode_of([(1, 1), (3, 5)], anew={1}, **older)):
        with pytest.raises(MalformedRecordError, match="versions cannot go back"):
            decode_group(encode_group(group_of(other)), BOUNDS)


def test_a_turn_that_was_cut_off_and_its_own_seed_come_back() -> None:
    episode = episode_of([(1, 2), (3, 4)])
    turns = (replace(episode.turns[0], finish_reason=FinishReason.LENGTH, seed=5), episode.turns[1])
    (got,) = decode_group(encode_group(group_of(replace(episode, turns=turns))), BOUNDS).trajectories
    assert (got.turns[0].finish_reason, got.turns[0].seed, got.turns[1].seed) == (FinishReason.LENGTH, 5, None)
