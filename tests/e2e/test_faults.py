"""`ais run` with real processes: rollout replicas, collector, trainer, Valkey."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.runs.lines import whole_lines

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples" / "sort16" / "config.toml"
GROUPS_PER_BATCH = 8


@contextmanager
def ais_run(directory: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """`ais run` in a directory of its own; whatever is left of it at the end is killed."""
    settings = [f"run.directory={directory}", f"run.groups_per_batch={GROUPS_PER_BATCH}", *overrides]
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ais.cli", "run", "-c", str(CONFIG), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    family = [psutil.Process(process.pid)]
    try:
        yield process
        family += family[0].children(recursive=True) if family[0].is_running() else []
    finally:
        if process.poll() is None:
            family += psutil.Process(process.pid).children(recursive=True)
            for member in family:
                if member.is_running():
                    member.kill()
        process.wait()


def steps(directory: Path) -> list[dict[str, Any]]:
    files = list(directory.glob("*/steps.jsonl"))
    return whole_lines(files[0]) if files else []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def services_of(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if f"ais.{name}" in child.cmdline() or child.name() == name]


def assert_ledger(directory: Path, batches: int) -> None:
    """Every batch is exactly its own ordinals, no group twice, and the committed history is what was trained."""
    lines = steps(directory)
    assert [line["ordinals"] for line in lines] == [
        list(range(k * GROUPS_PER_BATCH, (k + 1) * GROUPS_PER_BATCH)) for k in range(batches)
    ]
    trained = [group for line in lines for group in line["group_ids"]]
    assert len(set(trained)) == batches * GROUPS_PER_BATCH
    (ledger,) = directory.glob("*/ledger.jsonl")
    commits = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [group for commit in commits for group in commit["group_ids"]] == trained


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_run_whose_launcher_was_killed_goes_on_by_ais_resume_in_its_trackers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackers = ('tracking.trackers=["tensorboard", "wandb", "trackio"]', "tracking.wandb.mode=offline")
    overrides = ("run.steps=16", "launcher.evaluation_prompts=0", "trainer.checkpoints.every_steps=3", *trackers)
    with ais_run(tmp_path, *overrides) as process:
        wait_for(lambda: len(steps(tmp_path)) >= 5, process)
        process.kill()
        process.wait()
    (directory,) = tmp_path.glob("demo")
    resumed = subprocess.run(
        [sys.executable, "-m", "ais.cli", "resume", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_ledger(tmp_path, batches=16)
    assert steps(tmp_path)[0]["incarnation"] == 1, "what was committed was not trained again"
    assert steps(tmp_path)[-1]["incarnation"] == 2
    for name, exact in (("tensorboard", 2e-7), ("wandb", 0), ("trackio", 0)):
        reader = [sys.executable, "-m", "tests.support.tracker_readers", name, str(directory)]
        read = json.loads(subprocess.run(reader, cwd=ROOT, capture_output=True, check=True).stdout.splitlines()[-1])
        for figure in ("reward_mean", "log_ratio_abs_mean", "incarnation", "tokens_per_second"):
            expected = {str(line["step"]): line[figure] for line in steps(tmp_path)}
            assert read[figure] == pytest.approx(expected, rel=exact, abs=0), (name, figure)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_run_whose_server_is_killed_waits_says_so_and_goes_on(tmp_path: Path) -> None:
    with ais_run(tmp_path, "run.steps=12", "launcher.evaluation_prompts=0") as process:
        wait_for(lambda: len(steps(tmp_path)) >= 3, process)
        services_of(process, "valkey-server")[0].kill()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_ledger(tmp_path, batches=12)
    logs = "".join(path.read_text() for path in tmp_path.glob("*/logs/*.log"))
    assert "Redis does not answer, trying again" in logs
    assert "Redis answers again" in logs


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_within_seconds_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with ais_run(tmp_path, "run.steps=1000", "launcher.evaluation_prompts=0") as process:
        wait_for(lambda: len(steps(tmp_path)) >= 2, process)
        family = psutil.Process(process.pid).children(recursive=True)
        begin = time.monotonic()
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=30)
        assert time.monotonic() - begin < 15
    assert f"go on:       ais resume {tmp_path / 'demo'}" in output.splitlines()  # whole, on a line of its own
    assert re.search(r"trainer: metrics at http://127.0.0.1:\d+/metrics", output)
    assert process.returncode == 128 + number
    assert [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE] == []
