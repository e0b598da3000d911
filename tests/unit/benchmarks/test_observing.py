"""Taking turns: what is not observed is not called, what observes is timed, and a cost is told with its interval."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.observing.turns import KINDS, Kind, Moment, Part, figures, kind_of, turns


def test_each_kind_is_as_often_early_in_a_round_as_late() -> None:
    places = [[kind_of(3 * turn + place) for turn in range(4)] for place in range(3)]
    assert [sorted({*kinds}) for kinds in places] == [["alone", "traced"], ["observed"], ["alone", "traced"]]
    assert all({kind_of(3 * turn + place) for place in range(3)} == {*KINDS} for turn in range(4))


def test_a_part_is_left_out_while_nobody_observes_and_timed_while_somebody_does() -> None:
    calls: list[int] = []
    owner = SimpleNamespace(look=calls.append)
    with turns([Part(owner, "look")]) as taken:
        for number in range(3):
            taken.take(number)
            owner.look(number)
        parts = taken.now().parts
    assert calls == [1, 2]
    assert 0.0 < parts < 1.0


def test_a_cost_is_the_median_over_rounds_of_what_is_added_to_the_work_alone() -> None:
    def round_of(cost: float) -> dict[Kind, Moment]:
        seen = Moment(processor=2.0 * (1 + cost), wall=3.0, parts=0.1)
        return {"alone": Moment(2.0, 3.0, 0.0), "observed": seen, "traced": seen}

    found = figures("x", "a step", [round_of(cost) for cost in (0.5, 0.01, 0.02, 0.03, -0.2)])
    assert found["x_observed_processor_cost"]["value"] == pytest.approx(0.02)
    assert (found["x_observed_processor_cost"]["low"], found["x_observed_processor_cost"]["high"]) == (
        pytest.approx(-0.2),
        pytest.approx(0.5),
    )
    assert found["x_alone"]["value"] == 2.0
    assert found["x_traced_wall_cost"]["value"] == 0.0
