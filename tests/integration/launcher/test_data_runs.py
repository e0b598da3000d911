"""The examples of users' own data, run small through the real services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import EXAMPLES, started


def samples_of(example: str, directory: Path) -> list[dict[str, Any]]:
    """The responses of a run of two steps."""
    with started(EXAMPLES / example / "config.toml", directory, {"run.steps": 2, "run.samples_per_group": 4}) as run:
        run.ended_well()
    return run.lines("samples")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_of_own_data_runs(tmp_path: Path) -> None:
    samples = samples_of("own_data", tmp_path)
    assert len(samples) == 2 * 4 * 4
    assert all(sorted(sample["prompt"].strip("^=")) == list(sample["answer"]) for sample in samples)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_of_a_mixture_runs_and_trains_on_both_its_sources(tmp_path: Path) -> None:
    samples = samples_of("mixture", tmp_path)
    written = (EXAMPLES / "own_data" / "problems.jsonl").read_text("utf-8")
    from_file = {sample["prompt"].strip("^") in written for sample in samples}
    assert from_file == {True, False}
    assert {len(sample["answer"]) for sample in samples} == {16}
