"""The examples about rewards, run small by `ais run`: real replicas, collector, trainer and Valkey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MARK = "AIS_TEST_MARK"
"""Environment variable by which every process of a run is found, whatever became of its parents."""


def run(example: str, directory: Path, **settings: object) -> list[dict[str, Any]]:
    """Runs an example to its end. The lines of its steps.jsonl."""
    small = {
        "run.directory": directory,
        "run.name": "small",
        "run.steps": 3,
        "run.groups_per_batch": 4,
        "run.samples_per_group": 8,
        "rollout.replicas": 1,
        "launcher.evaluation_prompts": 0,
        "trainer.samples_per_step": 32,
    } | {key.replace("__", "."): value for key, value in settings.items()}
    arguments = [argument for key, value in small.items() for argument in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "ais.cli", "run", "-c", str(EXAMPLES / example / "config.toml"), *arguments],
        env=os.environ | {MARK: str(directory)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (directory / "small" / "steps.jsonl").read_text("utf-8").splitlines()]


def left_of(directory: Path) -> list[str]:
    """Command lines of the processes that are left of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(directory):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_ends_well_whose_verifier_hangs_crashes_takes_memory_forks_and_gives_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "flaky_verifier"))
    import flaky  # type: ignore[import-not-found]

    steps = run("flaky_verifier", tmp_path)
    samples = [json.loads(line) for line in (tmp_path / "small" / "samples.jsonl").read_text("utf-8").splitlines()]
    expected, reported = Counter[str](), Counter[str]()
    for sample in samples:
        ended = sample["finish_reason"] == "stop"
        expected.update(filter(None, [flaky.misdeed_of(sample["response"][:-1] if ended else sample["response"])]))
        reported.update(reason.partition(":")[0] for reason in sample["failures"].values())
    assert len(samples) == 3 * 4 * 8
    assert reported == expected
    assert sum((Counter(step["judgements_failed"]) for step in steps), Counter()) == expected
    assert len(expected) >= 4
    assert steps[-1]["reward_components"].keys() == {"own.places", "own.exact"}
    assert left_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_mixture_is_drawn_again_where_its_groups_teach_nothing(tmp_path: Path) -> None:
    steps = run("dynamic_sampling", tmp_path, collector__dynamic_sampling__redraws=1)
    assert [step["ordinals"] for step in steps] == [list(range(4 * k, 4 * k + 4)) for k in range(3)]
    assert sum(step["redrawn_sequences"] for step in steps) > 0
    assert [step["redrawn_share"] * 4 * 8 for step in steps] == [step["redrawn_sequences"] for step in steps]
    assert steps[-1]["reward_components"].keys() == {"answer", "overlong"}
