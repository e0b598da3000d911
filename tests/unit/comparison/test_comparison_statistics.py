"""Student's distribution against closed forms and tables, and what follows from it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ais.comparison.results.measures import worst_fall
from ais.comparison.results.statistics import estimate, incomplete_beta, paired, t_quantile, t_tail

TABLE = {1: 12.7062047, 2: 4.3026527, 4: 2.7764451, 9: 2.2621572, 30: 2.0422725, 1000: 1.9623391}
"""Two-sided 95% points of Student's t, as printed in tables."""


@pytest.mark.parametrize(("freedom", "expected"), TABLE.items())
def test_the_95_percent_points_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, rel=1e-7)


@given(st.floats(-50, 50))
def test_with_one_and_two_degrees_the_tail_has_a_closed_form(t: float) -> None:
    assert t_tail(t, 1) == pytest.approx(1 - 2 * math.atan(abs(t)) / math.pi, abs=1e-9)
    assert t_tail(t, 2) == pytest.approx(1 - abs(t) / math.sqrt(2 + t * t), abs=1e-9)


@given(st.floats(0, 1), st.integers(1, 12), st.integers(1, 12))
def test_the_incomplete_beta_function_of_whole_numbers_is_a_binomial_tail(x: float, a: int, b: int) -> None:
    n = a + b - 1
    tail = sum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))
    assert incomplete_beta(x, a, b) == pytest.approx(tail, abs=1e-12)


@given(st.floats(0.01, 40), st.integers(1, 60))
def test_the_tail_is_that_of_scipy(t: float, freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="a second opinion, where scipy is installed")
    assert t_tail(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-8, abs=1e-14)


def test_the_interval_of_a_mean_is_that_of_a_worked_example() -> None:
    found = estimate([4.0, 6.0, 8.0])
    assert (found.mean, found.deviation, found.count) == (6.0, 2.0, 3)
    assert found.half_width == pytest.approx(4.3026527 * 2 / math.sqrt(3), rel=1e-7)


def test_a_single_value_has_no_interval_and_none_has_no_mean() -> None:
    assert estimate([0.5]).mean == 0.5
    assert math.isnan(estimate([0.5]).half_width)
    assert math.isnan(estimate([]).mean)


def test_the_paired_test_is_that_of_a_worked_example() -> None:
    # differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 2 sqrt 3 with two degrees: p = 1 - t / sqrt(2 + t^2)
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.difference.mean == 2.0
    t = 2 * math.sqrt(3)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6))
def test_the_paired_test_looks_at_the_size_of_a_difference_and_not_at_its_sign(
    pairs: list[tuple[float, float]],
) -> None:
    first, second = zip(*pairs, strict=True)
    there, back = paired(first, second), paired(second, first)
    assert there.difference.mean == pytest.approx(-back.difference.mean)
    assert there.p_value == pytest.approx(back.p_value, nan_ok=True)


@pytest.mark.parametrize("pairs", [([0.5], [0.4]), ([0.5, 0.6], [0.5, 0.6]), ([1.0, 2.0], [0.0, 1.0])])
def test_pairs_without_spread_have_no_p_value(pairs: tuple[list[float], list[float]]) -> None:
    assert math.isnan(paired(*pairs).p_value)


def test_the_worst_fall_is_from_a_peak_to_a_later_value() -> None:
    assert worst_fall([0.1, 0.8, 0.6, 0.9, 0.2, 0.4]) == pytest.approx(0.7)
    assert worst_fall([0.1, 0.2, 0.3]) == 0.0
    assert math.isnan(worst_fall([]))
