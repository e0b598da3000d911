"""What is kept of a run's steps: right figures, and no more memory for a longer run."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.launcher.course import MOST_SHARES, Course, Trend
from ais.launcher.directory.steps import StepLog


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5_000))
def test_a_trend_keeps_means_of_equal_shares_in_bounded_memory(values: list[float]) -> None:
    trend = Trend()
    for value in values:
        trend.add(value)
    means = trend.means
    assert len(means) <= MOST_SHARES
    share = next(2**power for power in range(20) if -(-len(values) // 2**power) <= len(means))
    expected = [fmean(values[begin : begin + share]) for begin in range(0, len(values), share)]
    assert means == pytest.approx(expected, abs=1e-6)


def test_a_course_does_not_grow_with_the_run() -> None:
    course = Course(["reward_mean"])
    for step in range(100_000):
        course.add({"reward_mean": 0.5, "time": float(step), "group_ids": ["x" * 100]})
    assert course.steps == 100_000
    assert course.last == {"reward_mean": 0.5}
    assert course.seconds_a_step == 1.0
    assert len(course.trends["reward_mean"].means) <= MOST_SHARES


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "text", [1]])
def test_what_is_no_number_is_left_out(value: object) -> None:
    course = Course(["alpha"])
    course.add({"alpha": 0.5})
    course.add({"alpha": value})
    assert (course.steps, course.last, list(course.trends["alpha"].means)) == (2, {}, [0.5])


def test_a_rewound_file_is_followed_from_its_beginning(tmp_path: Path) -> None:
    def line(step: int) -> str:
        return json.dumps({"step": step, "reward_mean": step / 10}) + "\n"

    path = tmp_path / "steps.jsonl"
    path.write_text("".join(map(line, range(1, 8))))
    course, log = Course(["reward_mean"]), StepLog(path)
    course.follow(log)
    assert course.steps == 7
    part = tmp_path / "part"
    part.write_text("".join(map(line, range(1, 4))))
    part.replace(path)
    course.follow(log)
    with path.open("a") as file:
        file.write(line(4))
    course.follow(log)
    assert (course.steps, course.last["reward_mean"]) == (4, 0.4)
    assert list(course.trends["reward_mean"].means) == [0.1, 0.2, 0.3, 0.4]
