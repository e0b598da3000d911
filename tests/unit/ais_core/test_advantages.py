"""Advantage estimators against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ais_core.advantages import ESTIMATORS, dr_grpo, estimate, grpo, reinforce_plus_plus, rloo
from ais_core.errors import NonFiniteError, SettingError, ShapeError

REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5, 0.5])
GROUPS = torch.tensor([7, 3, 7, 7, 3, 3])


def test_each_estimator_is_its_definition_on_one_group() -> None:
    rewards, group = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3, dtype=torch.int64)
    centred = rewards - 3.0
    torch.testing.assert_close(dr_grpo(rewards, group), centred)
    torch.testing.assert_close(grpo(rewards, group), centred / (rewards.std() + 1e-6))
    torch.testing.assert_close(reinforce_plus_plus(rewards, group), centred / (centred.std() + 1e-6))
    leave_one_out = torch.tensor([1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5])
    torch.testing.assert_close(rloo(rewards, group), leave_one_out)


@pytest.mark.parametrize("name", ESTIMATORS)
@given(order=st.permutations(range(6)))
def test_groups_may_come_in_any_order(name: str, order: list[int]) -> None:
    torch.testing.assert_close(estimate(name, REWARDS[order], GROUPS[order]), estimate(name, REWARDS, GROUPS)[order])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_groups_sum_to_zero_and_equal_rewards_or_a_group_of_one_say_nothing(name: str) -> None:
    advantages = estimate(name, REWARDS, GROUPS)
    for group in (3, 7):
        assert float(advantages[group == GROUPS].sum()) == pytest.approx(0.0, abs=1e-5)
    assert not estimate(name, torch.ones(4), torch.tensor([0, 0, 0, 1])).any()
    assert not estimate(name, torch.tensor([0.1] * 8), torch.zeros(8)).any()
    assert estimate(name, torch.zeros(0), torch.zeros(0)).numel() == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="1 of 2"):
        grpo(torch.tensor([1.0, torch.nan]), torch.zeros(2))
    with pytest.raises(ShapeError):
        grpo(torch.ones(2), torch.zeros(3))
    with pytest.raises(SettingError, match="rloo"):
        estimate("ppo", REWARDS, GROUPS)
