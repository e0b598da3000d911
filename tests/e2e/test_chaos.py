"""`ais chaos`, the short version: every process of a real run is killed, and the run holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS = 8


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_under_fire_ends_by_itself_and_has_consumed_every_group_once(tmp_path: Path) -> None:
    settings = (
        f"run.directory={tmp_path}",
        "run.steps=40",
        "run.groups_per_batch=8",
        "run.max_staleness=1",
        "trainer.checkpoints.every_steps=3",
        "launcher.evaluation_prompts=0",
    )
    overrides = [argument for setting in settings for argument in ("--set", setting)]
    verdict_file = tmp_path / "verdict.json"
    command = [sys.executable, "-m", "ais.cli", "chaos", "-c", "examples/sort16/config.toml"]
    ended = subprocess.run(
        [*command, "--kills", str(KILLS), "--output", str(verdict_file), *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert verdict_file.exists(), ended.stdout + ended.stderr
    verdict = json.loads(verdict_file.read_text())
    history = [problem for problem in verdict["problems"] if "reward" not in problem]  # forty steps learn too little
    assert history == [], ended.stdout + ended.stderr
    assert sum(verdict["kills"].values()) == KILLS
    assert set(verdict["kills"]) == {"trainer", "collector", "rollout-0", "rollout-1", "valkey"}
    assert verdict["trainers"] >= 2
