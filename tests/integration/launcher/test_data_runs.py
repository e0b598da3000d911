"""The examples of users' own data, run small through the real services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import EXAMPLES, Run, started


def run_of(example: str, directory: Path, **more: Any) -> Run:
    """A run of two steps that has ended well."""
    settings = {"run.steps": 2, "run.samples_per_group": 4, **more}
    with started(EXAMPLES / example / "config.toml", directory, settings) as run:
        run.ended_well()
    return run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_of_own_data_runs(tmp_path: Path) -> None:
    samples = run_of("own_data", tmp_path).lines("samples")
    assert len(samples) == 2 * 4 * 4
    assert all(sorted(sample["prompt"].strip("^=")) == list(sample["answer"]) for sample in samples)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_of_a_mixture_trains_on_both_its_sources_with_truncated_sampling_too(tmp_path: Path) -> None:
    truncated = {"collector.sampling.top_p": 0.8, "collector.sampling.min_p": 0.02}
    run = run_of("mixture", tmp_path, **truncated)
    samples = run.lines("samples")
    written = (EXAMPLES / "own_data" / "problems.jsonl").read_text("utf-8")
    from_file = {sample["prompt"].strip("^") in written for sample in samples}
    assert from_file == {True, False}
    assert {len(sample["answer"]) for sample in samples} == {16}
    assert all(step["log_ratio_abs_mean"] < 0.05 for step in run.lines("steps")), "it scores over the tokens kept"
