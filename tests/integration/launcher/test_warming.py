"""A run makes its model by itself where it is not there; a warm start that fails says why and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ais.settings import load
from ais.warming import make_missing_model

EASY = (
    "collector.task.digits=1",
    "launcher.warm_start.accuracy=0.2",
    "launcher.warm_start.batch_size=32",
)
"""Sort one digit: a moment's work."""


def ais(directory: Path, command: str, *settings: str) -> subprocess.CompletedProcess[str]:
    overrides = [f"run.model={directory / 'model'}", f"run.directory={directory / 'runs'}", *settings]
    arguments = [part for override in overrides for part in ("--set", override)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIS_")}
    return subprocess.run(
        [sys.executable, "-m", "ais.cli", command, *arguments],
        cwd=directory, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_a_run_makes_its_missing_model_once(tmp_path: Path) -> None:
    run = (
        *EASY, "launcher.warm_start.when_missing=true", "launcher.evaluation_prompts=0", "run.name=first",
        "run.steps=1", "run.groups_per_batch=4", "run.samples_per_group=4", "rollout.replicas=1",
        "collector.sampling.max_new_tokens=24", "rollout.max_model_len=64",
    )  # fmt: skip
    done = ais(tmp_path, "run", *run)
    assert done.returncode == 0, done.stderr
    assert "making it, once" in done.stderr
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["max_position_embeddings"], config["hidden_size"]) == (2048, 64)
    steps = [json.loads(line) for line in (tmp_path / "runs" / "first" / "steps.jsonl").read_text().splitlines()]
    assert len(steps) == 1


def test_a_model_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = load(None, [f"run.model={tmp_path}", "launcher.warm_start.when_missing=true"])
    assert make_missing_model(settings) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (
            ("collector.task.name=jsonl", "collector.task.file=none.jsonl"),
            2,
            "no demonstrations of collector.task.name",
        ),
        ((*EASY, "launcher.warm_start.steps=2"), 1, "allow more launcher.warm_start.steps"),
    ],
)
def test_a_warm_start_that_fails_says_why_and_leaves_no_model(
    tmp_path: Path, settings: tuple[str, ...], code: int, said: str
) -> None:
    done = ais(tmp_path, "warmstart", *settings)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists()
