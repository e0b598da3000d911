"""From turns to one trajectory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ais.collector.episodes.group import together
from ais.collector.episodes.joining import SampledTurn, joined
from ais.collector.episodes.table import turn_seed
from ais.contracts.reward_components import JudgementFailure, RewardComponent
from ais.contracts.routing.routed import RoutedExperts
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import MalformedRecordError, PolicySpan, Trajectory
from ais.contracts.turns import tokens_read
from tests.support.records import trajectory_of


def turn(tokens: list[int], version: int, digest: str = "d", **fields: object) -> Trajectory:
    usual = {
        "spans": (PolicySpan(version, 0, len(tokens), digest),),
        "sampling": SamplingParameters(max_new_tokens=8, seed=version),
        "first_token_seconds": 0.25,
        "total_seconds": 1.0,
    }
    return trajectory_of(tokens, f"call-{version}", behaviour_logprobs=[-0.5] * len(tokens), **usual | fields)


def test_turns_are_one_trajectory_whose_arrays_are_about_sampled_tokens() -> None:
    turns = [
        SampledTurn([], turn([1, 2], 3)),
        SampledTurn([7], turn([3], 3, finish_reason=FinishReason.LENGTH)),
        SampledTurn([8, 9], turn([4, 5, 6], 4)),
    ]
    episode = joined(turns, "group", 2, most_turns=5)
    assert (episode.trajectory_id, episode.group_id, episode.sample_index) == ("group/2", "group", 2)
    assert episode.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert episode.text_token_ids.tolist() == [1, 2, 7, 3, 8, 9, 4, 5, 6]
    assert np.flatnonzero(~episode.sampled).tolist() == [2, 4, 5]
    assert episode.spans == (PolicySpan(3, 0, 3, "d"), PolicySpan(4, 3, 6, "d"))
    assert [one.finish_reason for one in episode.turns] == [FinishReason.STOP, FinishReason.LENGTH, FinishReason.STOP]
    assert [(one.max_new_tokens, one.seed) for one in episode.turns] == [(8, 3), (8, 3), (8, 4)]
    assert episode.sampling.max_new_tokens == 40
    assert (episode.first_token_seconds, episode.total_seconds) == (0.25, 3.0)


def test_weights_of_one_version_and_another_digest_are_a_span_of_their_own() -> None:
    episode = joined([SampledTurn([], turn([1], 3)), SampledTurn([7], turn([2], 3, "e"))], "group", 0, 2)
    assert [span.digest for span in episode.spans] == ["d", "e"]


def experts(*tokens: int, of: int = 8) -> RoutedExperts:
    """Each token's only one, in one layer."""
    return RoutedExperts(np.array(tokens, dtype=np.uint8).reshape(-1, 1, 1), of)


def test_a_token_keeps_the_experts_of_the_turn_that_read_it_first() -> None:
    turns = [
        SampledTurn([], turn([1, 2], 3, routed=experts(0, 1, 2))),  # a prompt of two tokens
        SampledTurn([7], turn([3], 3, routed=experts(5, 5, 5, 3, 4))),
        SampledTurn([8, 9], turn([4], 3, routed=experts(6, 7)), begins_anew=True),
    ]
    episode = joined(turns, "group", 0, 3)
    assert episode.routed is not None
    assert episode.routed.expert_ids.flatten().tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert len(episode.routed) == tokens_read(episode.passages(np.array([5, 6])))
    silent = [*turns[:2], SampledTurn([8], turn([4], 3))]
    assert joined(silent, "group", 0, 3).routed is None


@pytest.mark.parametrize(
    ("second", "field"),
    [
        (turn([1], 2), "trajectory.spans.version"),
        (turn([1], 4, precision=Precision(weights="bf16")), "trajectory.precision"),
        (turn([1], 4, engine_version="2"), "trajectory.engine_version"),
        (turn([1], 4, routed=experts(0, 1, 2, of=4)), "trajectory.routed"),
    ],
)
def test_turns_that_are_not_of_one_episode_are_refused(second: Trajectory, field: str) -> None:
    with pytest.raises(MalformedRecordError) as refused:
        joined([SampledTurn([], turn([1], 3, routed=experts(0))), SampledTurn([7], second)], "group", 0, 2)
    assert refused.value.field == field


def test_a_turn_that_begins_anew_may_be_of_an_older_version_and_is_a_passage_of_its_own() -> None:
    episode = joined([SampledTurn([], turn([1], 3)), SampledTurn([7, 8], turn([2], 2), True)], "group", 0, 2)
    assert [span.version for span in episode.spans] == [3, 2]
    first, second = episode.passages(np.array([5, 6]))
    assert (first.prompt_token_ids.tolist(), first.text_token_ids.tolist()) == ([5, 6], [1])
    assert (second.prompt_token_ids.tolist(), second.text_token_ids.tolist()) == ([7, 8], [2])


def test_components_of_episodes_are_put_together_by_name() -> None:
    failure = JudgementFailure(0, "error", "why")
    found = together(
        [
            (RewardComponent("a", 1.0, (0.5,)), RewardComponent("b", 0.1, (2.0,))),
            (RewardComponent("a", 1.0, (0.0,), (failure,)),),
        ]
    )
    assert found == (
        RewardComponent("a", 1.0, (0.5, 0.0), (replace(failure, index=1),)),
        RewardComponent("b", 0.1, (2.0, 0.0)),
    )


def test_no_two_turns_of_a_group_have_the_same_seed() -> None:
    seeds = {turn_seed(5, sample, number) for sample in range(40) for number in range(40)}
    assert len(seeds) == 1600
    assert turn_seed(5, 1, 2) == turn_seed(5, 1, 2) < 2**63
