"""Runs through the real services from sources of every kind: chats in Parquet, and the examples of users' own data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def run(config: Path, directory: Path, *overrides: str) -> list[dict[str, Any]]:
    """The samples of a run of two steps."""
    small = (
        "run.steps=2",
        "run.groups_per_batch=4",
        "launcher.evaluation_prompts=0",
        "trainer.samples_per_step=8",
        f"run.directory={directory}",
    )
    settings = [part for override in (*small, *overrides) for part in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-m", "ais.cli", "run", "-c", str(config), *settings],
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = directory.glob("*/samples.jsonl")
    return [json.loads(line) for line in samples.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_trains_on_chats_in_parquet_files(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra data")
    from pyarrow import parquet

    rows = [json.loads(line) for line in (ROOT / "examples" / "own_data" / "problems.jsonl").read_text().splitlines()]
    for part in range(2):
        parquet.write_table(pa.Table.from_pylist(rows[part::2]), tmp_path / f"part-{part}.parquet", row_group_size=30)
    config = ROOT / "examples" / "own_data" / "config.toml"
    samples = run(config, tmp_path / "runs", "collector.task.name=parquet", f"collector.task.file={tmp_path}/*.parquet")
    answers = {row["messages"][0]["content"]: row["solution"]["digits"] for row in rows}
    assert samples
    assert all(answers[sample["prompt"].removeprefix("^")] == sample["answer"] for sample in samples)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_example_of_own_data_runs(tmp_path: Path) -> None:
    samples = run(ROOT / "examples" / "own_data" / "config.toml", tmp_path)
    assert all(sorted(sample["prompt"].strip("^=")) == list(sample["answer"]) for sample in samples)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_example_of_a_mixture_runs_and_trains_on_both_its_sources(tmp_path: Path) -> None:
    samples = run(ROOT / "examples" / "mixture" / "config.toml", tmp_path)
    written = (ROOT / "examples" / "own_data" / "problems.jsonl").read_text()
    from_file = {sample["prompt"].strip("^") in written for sample in samples}
    assert from_file == {True, False}
    assert {len(sample["answer"]) for sample in samples} == {16}
