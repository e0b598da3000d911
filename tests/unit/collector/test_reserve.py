"""Prompts of the reserve: a pure function of ordinal and redraw, and nobody else's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ais.collector.group_sampling import group_seed, is_uniform
from ais.collector.prompts.reserve import position_of
from ais.collector.settings import MOST_REDRAWS
from ais.contracts.limits import HIGHEST_VERSION
from ais.contracts.reward_components import RewardComponent
from ais.contracts.trajectory import ScoredGroup
from tests.support.records import trajectory_of

ORDINALS = st.integers(0, HIGHEST_VERSION - 1)
REDRAWS = st.integers(0, MOST_REDRAWS)


@given(ORDINALS, REDRAWS, ORDINALS, REDRAWS)
def test_no_two_draws_have_the_same_position(one: int, redraw: int, other: int, its_redraw: int) -> None:
    same = (one, redraw) == (other, its_redraw)
    assert (position_of(one, redraw) == position_of(other, its_redraw)) == same


@given(ORDINALS, REDRAWS)
def test_a_position_is_one_that_a_task_has(ordinal: int, redraw: int) -> None:
    assert 0 <= position_of(ordinal, redraw) < 2**62
    assert position_of(ordinal, 0) == ordinal


def test_each_draw_and_each_attempt_to_judge_has_its_own_random_stream() -> None:
    seeds = {group_seed(0, ordinal, redraw, again) for ordinal in range(9) for redraw in range(4) for again in range(3)}
    assert len(seeds) == 9 * 4 * 3


def group(rewards: tuple[float, ...], **scores: tuple[float, ...]) -> ScoredGroup:
    trajectories = tuple(trajectory_of([1], sample_index=index) for index in range(len(rewards)))
    parts = tuple(RewardComponent(name.replace("__", "."), 1.0, values) for name, values in scores.items())
    return ScoredGroup("g", 0, "p", trajectories[0].token_ids, trajectories, rewards, "t", 1, components=parts)


def test_a_group_is_uniform_when_its_rewards_are_equal_or_the_scores_of_the_component_that_matters() -> None:
    assert is_uniform(group((1.0, 1.0)))
    assert not is_uniform(group((1.0, 0.5)))
    lengths = group((0.9, 0.7), answer=(1.0, 1.0), overlong=(-0.1, -0.3))
    assert is_uniform(lengths, "answer")
    assert not is_uniform(lengths, "overlong")
    assert not is_uniform(group((1.0, 1.0), own__style=(0.0, 1.0), own__sense=(1.0, 0.0)), "own")
