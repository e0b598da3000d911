"""What the display says, without a terminal."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ais.launcher.display import (
    FIGURES,
    MARGIN,
    LineDisplay,
    LiveDisplay,
    Snapshot,
    course_of_a_run,
    draw,
    duration,
    line,
    open_display,
    score_line,
    trend,
)
from ais.trainer.record import StepRecord


def record(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "time": 100.0 + 2.0 * step, "reward_mean": 0.5, "alpha": None, **more}


def snapshot(steps: int, **more: Any) -> Snapshot:
    figures = more.pop("figures", {})
    course = course_of_a_run(more.pop("hidden", ()))
    for step in range(1, steps + 1):
        course.add(record(step, **figures))
    return Snapshot("training", 10, course, **more)


def drawn(shot: Snapshot, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(draw("a run", shot, width))
    return console.export_text()


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


def test_held_out_scores_name_the_components_where_there_are_several() -> None:
    score = {"step": 2, "source": "sums", "first_version": 2, "last_version": 2, "reward_mean": 0.5}
    score |= {"reward_interval": 0.1, "reward_components.answer": 0.75, "reward_components.own.part": -0.5}
    assert score_line(score) == "step 2 on held-out sums: reward 0.500 ± 0.100  answer 0.750  own.part -0.500"
    del score["reward_components.own.part"]
    assert score_line(score) == "step 2 on held-out sums: reward 0.500 ± 0.100"


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
    text = drawn(snapshot(5, replicas_ready=2, replicas_wanted=2), 120)
    assert "step 5/10" in text
    assert "reward" in text
    assert "2 of 2" in text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("steps", [1, 9, 2_000])
def test_trend_lines_use_the_terminals_width_and_no_more(width: int, steps: int) -> None:
    lines = drawn(snapshot(steps), width).splitlines()
    (reward,) = [text for text in lines if "reward" in text]
    assert width - 6 <= len(reward.rstrip()) <= width - MARGIN
    assert all(len(text.rstrip()) <= width for text in lines)


def test_what_the_method_does_not_have_is_not_shown() -> None:
    shown = snapshot(3, figures={"alpha": 1.0})
    hidden = snapshot(3, figures={"alpha": 1.0}, hidden=("alpha",))
    assert "alpha" in drawn(shown, 80)
    assert "alpha" in line(shown)
    assert "alpha" not in drawn(hidden, 80)
    assert "alpha" not in line(hidden)


def test_replicas_are_shown_where_there_are_some() -> None:
    assert "replicas" not in line(snapshot(3))
    assert "replicas" not in drawn(snapshot(3), 80)


@pytest.mark.parametrize("keep", [True, False])
def test_the_figures_of_a_run_without_a_summary_stay_on_the_screen(keep: bool) -> None:
    output = io.StringIO()
    display = LiveDisplay(Console(file=output, width=80, force_terminal=True, legacy_windows=False), "a run")
    display.update(snapshot(5))
    display.close(keep)
    erased = output.getvalue().rpartition("step 5/10")[2].count("\x1b[2K")
    assert (erased == 0) is keep


def test_output_that_is_no_terminal_gets_plain_lines() -> None:
    assert isinstance(open_display(Console(file=io.StringIO()), "a run"), LineDisplay)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 60))
def test_a_trend_is_as_wide_as_asked_and_rises_with_its_values(values: list[float], width: int) -> None:
    shape = trend(sorted(values), width)
    assert len(shape) == width
    assert list(shape) == sorted(shape)


def test_a_trend_is_drawn_from_zero_to_its_ceiling() -> None:
    assert trend([0.0, 0.5, 1.0], 3, ceiling=1.0) == "▁▅█"
    assert trend([0.9, 0.9], 2, ceiling=1.0) == "▇▇"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (125, "2:05"), (3725, "1:02:05")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
