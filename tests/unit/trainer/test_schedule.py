"""The learning rate of each step."""

from __future__ import annotations

import pytest

from ais.trainer.learning.schedule import learning_rate
from ais.trainer.settings import OptimizerSettings


@pytest.mark.parametrize(("schedule", "half_way"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_a_linear_warm_up_then_the_schedule(schedule: str, half_way: float) -> None:
    settings = OptimizerSettings.model_validate({"learning_rate": 1.0, "warmup_steps": 10, "schedule": schedule})
    rates = [learning_rate(settings, step, steps=110) for step in range(110)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(half_way)
    assert min(rates) > 0.0


def test_no_warm_up_begins_at_the_peak() -> None:
    assert learning_rate(OptimizerSettings(learning_rate=1.0, warmup_steps=0), 0, steps=10) == 1.0


@pytest.mark.parametrize("steps", [500, 50_000])
def test_the_inverse_square_root_does_not_ask_how_long_the_run_is(steps: int) -> None:
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=10, schedule="inverse_sqrt", constant_steps=50)
    rates = [learning_rate(settings, 10 + since, steps) for since in (0, 50, 200, 450)]
    assert rates == pytest.approx([1.0, 1.0, 1 / 2, 1 / 3])
