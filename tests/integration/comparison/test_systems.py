"""A cell as a whole system: `ais run` with everything, and what the comparison makes of its directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ais.comparison.records import read_records
from ais.launcher.directory.steps import read_records as read_steps

ROOT = Path(__file__).parents[3]
SETTINGS = f"""
[run]
name = "systems"
model = "{ROOT / "examples/sort16/model"}"
steps = 4
groups_per_batch = 4
samples_per_group = 4

[collector.sampling]
max_new_tokens = 20

[rollout]
replicas = 1
max_model_len = 40

[compare]
mode = "system"
methods = ["ais"]
formats = ["e4m3"]
seeds = [3]
reference = false
evaluate_every = 2
final_prompts = 16
"""
SECONDS = 280


def command(directory: Path) -> list[str]:
    file = directory / "comparison.toml"
    file.write_text(SETTINGS, encoding="utf-8")
    return [sys.executable, "-m", "ais.cli", "compare", "-c", str(file), "--set", f"run.directory={directory}"]


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_a_system_that_was_interrupted_goes_on_and_is_scored_in_both_precisions(tmp_path: Path) -> None:
    run = tmp_path / "systems" / "systems" / "sort16-e4m3-ais-seed-3"
    with subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("step "))
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(SECONDS) == 128 + signal.SIGINT
    assert read_records(tmp_path / "systems" / "cells.jsonl") == []
    ended = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (record,) = read_records(tmp_path / "systems" / "cells.jsonl")
    assert record.evaluations["step"] == [0, 2, 4]
    assert all(len(record.evaluations[name]) == 3 for name in ("p", "q"))
    assert record.steps["step"] == [1, 2, 3, 4]
    rewards = [step["reward_mean"] for step in read_steps(run / "steps.jsonl")]
    assert record.steps["reward_mean"] == pytest.approx(rewards, rel=1e-4)
    assert all(seconds for seconds in record.steps["training_seconds"])
    assert record.settings["run.seed"] == 3
