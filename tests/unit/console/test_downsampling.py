"""Buckets of a long series: they lose no extreme, and what is added changes the last ones only."""

from __future__ import annotations

import json
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ais.console.buckets import MOST_BUCKETS, last_rows, summarise, width_for
from ais.console.columns import FIRST_CAPACITY, Columns
from ais.console.curves import Seen, curves, stretch

VALUES = st.floats(allow_nan=True, allow_infinity=True, width=64)
WIDTHS = st.sampled_from([1, 2, 4, 8])


def columns_of(rows: int, begin: int = 0) -> Columns:
    columns = Columns()
    for step in range(begin + 1, begin + rows + 1):
        columns.add({"step": step, "reward": math.sin(step), "phase": {"a": step % 7}, "group": "text"})
    return columns


@given(st.lists(VALUES, min_size=1, max_size=200), WIDTHS, st.data())
def test_each_bucket_is_the_mean_and_the_range_of_its_finite_values(
    values: list[float], width: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(values) - 1))
    found = summarise(np.array(values), first, len(values), width)
    ends = last_rows(first, len(values), width)
    begin = first
    for bucket, end in enumerate(ends):
        finite = [value for value in values[begin : end + 1] if math.isfinite(value)]
        if finite:
            low, high = found.low[bucket], found.high[bucket]
            assert (low, high) == (min(finite), max(finite))
            assert low <= found.mean[bucket] <= high
            largest = max(abs(low), abs(high))
            if largest < 1e300:
                assert abs(found.mean[bucket] - math.fsum(finite) / len(finite)) <= 1e-9 * largest
        else:
            assert math.isnan(found.mean[bucket])
        begin = end + 1
    assert begin == len(values)


@given(st.integers(0, 10**7))
def test_the_width_is_the_least_power_of_two_that_suffices(rows: int) -> None:
    width = width_for(rows)
    assert width & (width - 1) == 0
    assert -(-rows // width) <= MOST_BUCKETS
    assert width == 1 or -(-rows // (width // 2)) > MOST_BUCKETS


@given(st.lists(st.integers(1, 700), min_size=1, max_size=5))
def test_who_follows_a_series_has_what_who_asks_for_all_of_it_gets(additions: list[int]) -> None:
    """In as many answers as there are additions, whether the width changes meanwhile or not."""
    columns, seen = Columns(), Seen()
    steps: list[float] = []
    means: list[float] = []
    for rows in additions:
        for _ in range(rows):
            columns.add({"step": columns.rows + 1, "reward": columns.rows % 13})
        told = curves(columns, 1, ["reward"], seen)
        seen = Seen(told["generation"], told["rows"], told["width"])
        steps[told["begin"] :] = told["steps"]
        means[told["begin"] :] = told["series"]["reward"]["mean"]
    whole = curves(columns, 1, ["reward"], Seen())
    assert (steps, means) == (whole["steps"], whole["series"]["reward"]["mean"])


def test_an_answer_to_who_has_all_but_one_step_is_short() -> None:
    columns = columns_of(100_000)
    told = curves(columns, 1, ["reward", "phase."], Seen())
    assert len(told["steps"]) <= MOST_BUCKETS
    columns.add({"step": 100_001, "reward": 0.5})
    more = curves(columns, 1, ["reward", "phase."], Seen(told["generation"], told["rows"], told["width"]))
    assert len(more["steps"]) <= 2
    assert len(json.dumps(more)) < 1000


def test_steps_that_begin_anew_are_told_from_the_beginning() -> None:
    told = curves(columns_of(10), 2, ["reward"], Seen(generation=1, rows=10, width=1))
    assert (told["begin"], len(told["steps"])) == (0, 10)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_a_stretch_has_its_own_steps_and_no_others(one: int, other: int) -> None:
    first, last = sorted((one, other))
    told = stretch(columns_of(2000), 1, ["reward"], first, last)
    expected = range(first, min(last, 2000) + 1)
    assert told["steps"] == [] or told["steps"][-1] == expected[-1]
    assert (told["width"] == 1) == (len(expected) <= MOST_BUCKETS)
    if told["width"] == 1:
        assert told["steps"] == list(expected)


def test_a_quantity_that_comes_late_or_is_missing_is_not_a_number() -> None:
    columns = Columns()
    for step in range(FIRST_CAPACITY + 2):
        columns.add({"step": step, **({"late": True} if step > FIRST_CAPACITY else {})})
    assert np.isnan(columns.get("late")[:-1]).all()
    assert columns.last() == {"step": FIRST_CAPACITY + 1, "late": 1.0}
    columns.add({"step": FIRST_CAPACITY + 2})
    assert columns.last() == {"step": FIRST_CAPACITY + 2}
    assert np.isnan(columns.get("absent")).all()
