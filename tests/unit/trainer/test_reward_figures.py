"""What a step's record says about the rewards of its batch."""

from __future__ import annotations

from dataclasses import replace

from ais.contracts.reward_components import JudgementFailure, RewardComponent
from ais.trainer.reward_figures import reward_figures
from tests.support.trainer_groups import make_group


def test_components_are_averaged_over_the_responses_that_have_them() -> None:
    one = replace(make_group(0, samples=2), components=(RewardComponent("a", 1.0, (1.0, 0.0)),))
    other = replace(
        make_group(1, samples=2),
        components=(RewardComponent("a", 1.0, (1.0, 1.0)), RewardComponent("b", 2.0, (0.5, -0.5))),
    )
    assert reward_figures([one, other]).reward_components == {"a": 0.75, "b": 0.0}


def test_failures_are_counted_by_their_reason() -> None:
    failures = tuple(JudgementFailure(index, reason, "") for index, reason in enumerate(["died", "memory", "died"]))
    group = replace(make_group(0), components=(RewardComponent("a", 1.0, (0.0,) * 4, failures),))
    assert reward_figures([group, make_group(1)]).judgements_failed == {"died": 2, "memory": 1}


def test_redraws_cost_the_responses_that_were_thrown_away() -> None:
    figures = reward_figures([replace(make_group(0, samples=4), redraw=3), make_group(1, samples=4)])
    assert (figures.redrawn_share, figures.redrawn_sequences) == (0.5, 12)
