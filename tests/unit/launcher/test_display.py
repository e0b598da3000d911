"""What the display says, without a terminal."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ais.launcher.display import FIGURES, LineDisplay, Snapshot, draw, duration, line, open_display, trend
from ais.trainer.record import StepRecord


def record(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "time": 100.0 + 2.0 * step, "reward_mean": 0.5, "alpha": None, **more}


def snapshot(steps: int, **more: Any) -> Snapshot:
    return Snapshot("training", 10, [record(step) for step in range(1, steps + 1)], **more)


def test_every_figure_is_one_the_trainer_writes() -> None:
    assert {figure.key for figure in FIGURES} <= {field.name for field in dataclasses.fields(StepRecord)}


def test_time_left_is_the_pace_so_far_times_the_steps_to_come() -> None:
    assert snapshot(4).seconds_left == pytest.approx(2.0 * 6)


@pytest.mark.parametrize("steps", [0, 1, 10])
def test_time_left_is_unknown_at_first_and_nothing_at_the_end(steps: int) -> None:
    assert snapshot(steps).seconds_left is None


def test_a_quantity_without_a_value_is_left_out() -> None:
    text = line(snapshot(3, replicas_ready=1, replicas_wanted=2))
    assert "step 3/10" in text
    assert "reward 0.50" in text
    assert "alpha" not in text
    assert "replicas 1/2" in text


def test_without_a_terminal_there_is_a_line_a_phase_and_a_line_every_few_seconds() -> None:
    now = 0.0
    output = io.StringIO()
    display = LineDisplay(Console(file=output, width=200), "a run", clock=lambda: now)
    for steps in range(1, 11):
        now += 1.0
        display.update(snapshot(steps))
    lines = output.getvalue().splitlines()
    assert lines[:2] == ["a run", "training"]
    assert [text.split()[1] for text in lines[2:]] == ["1/10", "6/10", "10/10"]


def test_the_live_display_draws_every_figure_there_is() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(draw("a run", snapshot(5, replicas_ready=2, replicas_wanted=2)))
    text = console.export_text()
    assert "step 5/10" in text
    assert "reward" in text
    assert "2 of 2" in text


def test_output_that_is_no_terminal_gets_plain_lines() -> None:
    assert isinstance(open_display(Console(file=io.StringIO()), "a run"), LineDisplay)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 60))
def test_a_trend_is_never_wider_than_asked_and_rises_with_its_values(values: list[float], width: int) -> None:
    drawn = trend(sorted(values), width)
    assert len(drawn) == min(width, len(values))
    assert list(drawn) == sorted(drawn)


def test_a_trend_is_drawn_from_zero_to_its_ceiling() -> None:
    assert trend([0.0, 0.5, 1.0], 3, ceiling=1.0) == "▁▅█"
    assert trend([0.9, 0.9], 2, ceiling=1.0) == "▇▇"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (125, "2:05"), (3725, "1:02:05")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
