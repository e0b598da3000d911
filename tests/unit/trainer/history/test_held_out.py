"""What is kept of the evaluations while training, and what follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ais.trainer.history import evaluations
from ais.trainer.history.best import best_step, in_vain
from tests.support.records import evaluation_result


@pytest.mark.parametrize(
    ("values", "best", "vain"),
    [({}, None, 0), ({0: 0.5}, 0, 0), ({0: 0.5, 2: 0.7, 4: 0.6, 6: 0.7}, 2, 2), ({0: 0.5, 2: 0.4, 4: 0.6}, 4, 0)],
)
def test_the_best_is_the_earliest_of_the_greatest(values: dict[int, float], best: int | None, vain: int) -> None:
    assert best_step(values) == best
    assert in_vain(values) == vain


def test_values_are_the_mean_over_sources_or_those_of_one(tmp_path: Path) -> None:
    evaluations.append(tmp_path, evaluation_result(2, sums=0.25, words=0.75))
    evaluations.append(tmp_path, evaluation_result(4, sums=0.5, words=0.7))
    assert evaluations.values(tmp_path, "reward_mean") == pytest.approx({2: 0.5, 4: 0.6})
    assert evaluations.values(tmp_path, "words/pass@1") == pytest.approx({2: 0.75, 4: 0.7})


def test_lines_of_later_steps_and_what_was_cut_short_are_forgotten(tmp_path: Path) -> None:
    for step in (0, 2, 4):
        evaluations.append(tmp_path, evaluation_result(step, sums=0.5))
    with (tmp_path / evaluations.HELD_OUT_FILE).open("a") as file:
        file.write('{"step": 2, "sou')
    evaluations.rewind(tmp_path, 3)
    lines = (tmp_path / evaluations.HELD_OUT_FILE).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 2]
