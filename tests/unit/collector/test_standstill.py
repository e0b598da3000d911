"""When nothing moves, it is said after patience has ended, and again each time it has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ais.collector.standstill import Standstill


def test_nothing_is_said_while_things_move() -> None:
    standstill = Standstill(30.0, now=0.0)
    for now in range(0, 1000, 10):
        standstill.moved(now)
        assert not standstill.due(now + 9.9, 30.0)
        assert standstill.idle_seconds(now + 9.9) < 10


def test_it_is_said_once_for_each_patience() -> None:
    standstill = Standstill(30.0, now=0.0)
    said = [now for now in range(100) if standstill.due(float(now), 30.0)]
    assert said == [30, 60, 90]


@given(st.lists(st.floats(0.1, 5_000), min_size=1, max_size=20))
def test_a_trainer_gets_three_times_its_longest_step(steps: list[float]) -> None:
    standstill, now = Standstill(30.0, now=0.0), 0.0
    standstill.trained(now)
    for seconds in steps:
        now += seconds
        standstill.trained(now)
    patience = standstill.patience_seconds(trainer=True)
    assert patience >= 30.0
    assert abs(patience - max(30.0, 3 * max(steps))) < 1e-6 * patience
    assert standstill.patience_seconds() == 30.0


def test_a_call_gets_as_long_as_it_may_take() -> None:
    standstill = Standstill(30.0, now=0.0)
    assert standstill.patience_seconds(at_least=600.0) == 600.0
    assert standstill.patience_seconds(at_least=1.0) == 30.0
