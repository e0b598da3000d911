"""`ais chaos`, the short version: every process of a real run is killed, and the run holds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS = 8
PROGRAM = """
import json, os, sys, time, urllib.request
episode = json.loads(sys.stdin.readline())
def call(path, body):
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    address = os.environ["OPENAI_BASE_URL"] + path
    return json.load(urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode(), headers)))
messages = [{"role": "user", "content": episode["text"]}]
for turn in range(3):
    said = call("/chat/completions", {"messages": messages})["choices"][0]["message"]["content"]
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "+"}]
    time.sleep(0.2)
call("/end", {"reward": float(said < "20")})
"""
"""Plays an episode of three turns, slowly enough to be met by a kill."""


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
    verdict = under_fire("sort16", KILLS, tmp_path, settings)
    assert sum(verdict["kills"].values()) == KILLS
    assert set(verdict["kills"]) == {"trainer", "collector", "rollout-0", "rollout-1", "valkey"}
    assert verdict["trainers"] >= 2


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_programs_cost_no_more_than_their_episodes_again(tmp_path: Path) -> None:
    """With all else that an episode depends on: the endpoint is the collector."""
    (tmp_path / "play.py").write_text(PROGRAM)
    task = "collector.task.environment"
    settings = (
        f"run.directory={tmp_path}",
        "run.steps=8",
        "run.groups_per_batch=2",
        "run.samples_per_group=4",
        "collector.judging.on_failure=again",
        f"{task}.name=harness",
        f'{task}.command=["python", "-I", "-S", "play.py"]',
        f"{task}.directory={tmp_path}",
        "collector.prompt.chat_template=examples/openai_client/template.jinja",
        "trainer.checkpoints.every_steps=3",
        "launcher.evaluation_prompts=0",
    )
    verdict = under_fire("guess_number", 5, tmp_path, settings)
    assert {"program", "collector"} <= set(verdict["kills"])


def under_fire(example: str, kills: int, directory: Path, settings: Sequence[str]) -> dict[str, Any]:
    """The verdict on an example with these settings; its history must be whole."""
    verdict_file = directory / "verdict.json"
    overrides = [argument for setting in settings for argument in ("--set", setting)]
    command = [sys.executable, "-m", "ais.cli", "chaos", "-c", f"examples/{example}/config.toml"]
    ended = subprocess.run(
        [*command, "--kills", str(kills), "--output", str(verdict_file), *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert verdict_file.exists(), ended.stdout + ended.stderr
    verdict: dict[str, Any] = json.loads(verdict_file.read_text())
    history = [problem for problem in verdict["problems"] if "reward" not in problem]  # so few steps learn too little
    assert history == [], ended.stdout + ended.stderr
    return verdict
