"""A run that stops learning is noticed, by its cause; one that learns is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from ais.trainer.learning.vital_signs import PATIENCE, WINDOW, Vitals, VitalSigns

HEALTHY = Vitals(
    step=1,
    reward_mean=0.5,
    reward_std=0.5,
    zero_variance_share=0.2,
    truncated_share=0.0,
    gradient_norm=0.4,
    entropy=1.0,
    updates=1,
)


def test_a_run_whose_answers_are_too_long_for_its_weights_is_told_so_within_what_is_shown() -> None:
    signs = VitalSigns()
    sick = replace(HEALTHY, concerns=("exponent_limit", "uncorrected"))
    (warned,) = [one for _ in range(PATIENCE) for one in signs.add(sick)]
    assert "too long" in warned.message
    assert "correction.level" in warned.message
    assert len(warned.message) <= 300


def told(run: Iterable[Vitals]) -> list[tuple[int, str]]:
    """Step and kind of every warning of a run."""
    signs = VitalSigns()
    return [
        (step, warned.kind) for step, vitals in enumerate(run, 1) for warned in signs.add(replace(vitals, step=step))
    ]


def rewards(*parts: tuple[int, Callable[[float], float]], std: float | None = None) -> list[Vitals]:
    """Consecutive parts of a run: so many batches, and the mean reward by the share of the part that is done."""
    means = [curve(index / length) for length, curve in parts for index in range(length)]
    return [
        replace(HEALTHY, reward_mean=mean, reward_std=math.sqrt(mean * (1 - mean)) if std is None else std)
        for mean in means
    ]


def level(value: float) -> Callable[[float], float]:
    return lambda _share: value


def line(begin: float, end: float) -> Callable[[float], float]:
    return lambda share: begin + (end - begin) * share


@pytest.mark.parametrize(
    ("kind", "sick"),
    [
        (
            "rewards_equal",
            replace(HEALTHY, zero_variance_share=1.0, reward_mean=0.0, reward_std=0.0, gradient_norm=0.0),
        ),
        (
            "rewards_equal",
            replace(HEALTHY, zero_variance_share=1.0, reward_mean=1.0, reward_std=0.0, gradient_norm=0.0),
        ),
        # Each group has a level of its own.
        ("rewards_equal", replace(HEALTHY, zero_variance_share=1.0, reward_mean=0.4, reward_std=0.3)),
        ("responses_truncated", replace(HEALTHY, truncated_share=1.0)),
        ("responses_truncated", replace(HEALTHY, truncated_share=0.95)),
        ("gradient_zero", replace(HEALTHY, gradient_norm=0.0)),
        ("uncorrected", replace(HEALTHY, concerns=("uncorrected",))),
        ("uncorrected", replace(HEALTHY, concerns=("exponent_limit", "uncorrected"))),
        ("rejected", replace(HEALTHY, concerns=("rejected",))),
        ("gradient_zero", replace(HEALTHY, gradient_norm=0.0, zero_variance_share=0.9)),
    ],
)
def test_batches_that_teach_nothing_are_told_once_they_are_a_row_and_then_seldom(kind: str, sick: Vitals) -> None:
    assert told([HEALTHY] * 5 + [sick] * (PATIENCE - 1) + [HEALTHY] * 5) == []
    run = [HEALTHY] * 5 + [sick] * (11 * PATIENCE)
    assert [(step, name) for step, name in told(run) if name == kind] == [
        (5 + PATIENCE, kind),
        (5 + 10 * PATIENCE, kind),
    ]


@pytest.mark.parametrize(
    "run",
    [
        # The demo left at its constant rate.
        rewards((100, line(0.3, 0.9)), (300, level(0.9)), (200, line(0.9, 0.0)), (200, level(0.0))),
        rewards((50, level(0.9)), (30, level(0.0))),
        rewards((50, level(1.0)), (60, level(0.1))),
        rewards((100, line(0.05, 0.4)), (10, line(0.4, 0.0)), (40, level(0.0))),
        # Rewards that are negative, or large.
        [replace(one, reward_mean=one.reward_mean - 1) for one in rewards((40, level(0.9)), (40, level(0.0)))],
        [
            replace(one, reward_mean=1000 * one.reward_mean, reward_std=1000 * one.reward_std)
            for one in rewards((40, level(0.9)), (40, level(0.0)))
        ],
    ],
)
def test_a_reward_that_falls_after_it_rose_is_told(run: list[Vitals]) -> None:
    ((_step, kind), *again) = told(run)
    assert kind == "reward_collapsed"
    assert len(again) <= 2


def test_the_collapse_is_told_with_where_it_was_best_and_while_it_happens() -> None:
    run = rewards((100, line(0.3, 0.9)), (200, level(0.9)), (100, line(0.9, 0.0)), (50, level(0.0)))
    signs = VitalSigns()
    messages = [
        (step, warned.message) for step, one in enumerate(run, 1) for warned in signs.add(replace(one, step=step))
    ]
    step, message = messages[0]
    assert 330 <= step <= 360
    assert "0.9 at step" in message
    assert len(message) < 300
    assert "trainer.optimizer.learning_rate" in message


@pytest.mark.parametrize(
    "run",
    [
        rewards((300, line(0.3, 0.9))),
        rewards((200, level(0.0))),
        rewards((200, level(1.0))),
        rewards((100, line(0.3, 0.9)), (100, line(0.9, 0.75)), (100, line(0.75, 0.9))),
        rewards((200, lambda share: 0.5 + 0.2 * math.sin(40 * share))),
        rewards((WINDOW - 1, level(0.9)), (5, level(0.0))),
    ],
)
def test_a_reward_that_rises_rests_or_swings_is_not(run: list[Vitals]) -> None:
    assert [kind for _step, kind in told(run) if kind == "reward_collapsed"] == []


def with_entropy(run: list[Vitals], end: float) -> list[Vitals]:
    return [replace(one, entropy=1.0 + (end - 1.0) * index / len(run)) for index, one in enumerate(run)]


def test_a_policy_that_becomes_deterministic_without_having_learned_is_told() -> None:
    assert [kind for _step, kind in told(with_entropy(rewards((300, level(0.2))), 0.0))] == ["entropy_collapsed"]


def test_a_policy_that_becomes_sure_of_what_it_has_learned_is_not() -> None:
    assert told(with_entropy(rewards((300, line(0.3, 0.95))), 0.0)) == []


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_figures_that_are_not_finite_or_were_not_measured_raise_nothing(broken: float) -> None:
    sick = Vitals(1, broken, broken, broken, broken, broken, broken, 0)
    told([HEALTHY] * WINDOW + [sick] * 3 * WINDOW + [HEALTHY] * WINDOW)


def test_records_of_before_these_figures_are_read() -> None:
    vitals = Vitals.of({"step": 3, "reward_mean": 0.5, "reward_std": 0.1, "gradient_norm": None, "entropy": 1.0})
    assert VitalSigns().add(vitals) == []
