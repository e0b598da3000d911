"""`ais compare` with real workers: small, and whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ais.comparison.records import Record, read_records

ROOT = Path(__file__).parents[3]
SETTINGS = f"""
[run]
name = "small"
model = "{ROOT / "examples/sort16/model"}"
steps = 4
groups_per_batch = 4
samples_per_group = 8

[trainer.optimizer]
warmup_steps = 0

[collector.task]
digits = 16

[collector.sampling]
max_new_tokens = 20

[rollout]
max_model_len = 40

[compare]
methods = ["none", {{ method = "tis", level = "sequence" }}]
formats = ["e4m3", "e5m2"]
seeds = 2
evaluate_every = 2
evaluation_prompts = 32
final_prompts = 64
"""
CELLS = 10
"""Two methods, two formats, two seeds, and BF16 rollouts of each seed."""


SECONDS = 280
"""No part takes longer, on a machine that does much else."""


@dataclass(frozen=True)
class Story:
    """A comparison that was killed, begun again, interrupted by Ctrl-C, and begun again until it was done."""

    directory: Path
    alive_after_the_kill: int
    alive_after_ctrl_c: int
    code_of_ctrl_c: int
    printed_at_ctrl_c: str
    printed_at_last: str
    records: list[Record]


def command(directory: Path, *arguments: str) -> list[str]:
    file = directory / "comparison.toml"
    file.write_text(SETTINGS, encoding="utf-8")
    place = ("--set", f"run.directory={directory}")
    return [sys.executable, "-m", "ais.cli", "compare", "-c", str(file), *place, *arguments]


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(directory, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )


def ended(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(directory, *arguments), capture_output=True, text=True, timeout=SECONDS, check=False)


def wait_for_cells(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    done = (line for line in process.stdout if f"/{CELLS}  " in line)
    for _number in range(count):
        next(done)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "worker" in str(child.cmdline())]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    directory = tmp_path_factory.mktemp("comparison")
    with start(directory, "--workers", "2") as process:
        wait_for_cells(process, 2)
        killed = workers_of(process)
        assert len(killed) == 2
        process.kill()
    _gone, alive = psutil.wait_procs(killed, timeout=60)
    with start(directory, "--workers", "1") as process:
        wait_for_cells(process, 1)
        interrupted = workers_of(process)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        printed, code = process.stdout.read(), process.wait(SECONDS)
    still = sum(worker.is_running() for worker in interrupted)
    last = ended(directory, "--workers", "1")
    assert last.returncode == 0, last.stdout + last.stderr
    records = read_records(directory / "small" / "cells.jsonl")
    return Story(directory, len(alive), still, code, printed, last.stdout, records)


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
def test_a_comparison_that_was_killed_goes_on_and_trains_each_cell_once(story: Story) -> None:
    assert story.alive_after_the_kill == 0
    assert len(story.records) == CELLS
    assert len({record.place for record in story.records}) == CELLS
    assert f"{CELLS}/{CELLS}" in story.printed_at_last
    assert f"\n3/{CELLS}" not in f"\n{story.printed_at_last}"


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(story: Story) -> None:
    assert story.code_of_ctrl_c == 128 + signal.SIGINT
    assert story.alive_after_ctrl_c == 0
    assert "cells are left; go on: ais compare -c" in story.printed_at_ctrl_c


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
def test_quantised_rollouts_differ_from_the_trainer_and_bf16_ones_do_not(story: Story) -> None:
    mismatch: dict[str, list[float]] = {}
    for record in story.records:
        first = record.steps["log_ratio_abs_mean"][0]
        assert first is not None
        mismatch.setdefault(record.place.format, []).append(first)
        if record.place.format == "bf16":
            assert record.evaluations["p"] == record.evaluations["q"]
    assert max(mismatch["bf16"]) < 1e-3
    assert min(mismatch["e4m3"]) > 1e-3
    assert max(mismatch["e4m3"]) < min(mismatch["e5m2"])


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
def test_a_cell_trains_its_own_seed_by_its_own_method(story: Story) -> None:
    for record in story.records:
        assert record.steps["step"] == [1, 2, 3, 4]
        assert record.evaluations["step"] == [0, 2, 4]
        assert any(record.steps["gradient_norm"])
        assert record.settings["run.seed"] == record.place.seed
    none, tis = (one.steps for one in story.records if one.place.format == "e5m2" and one.place.seed == 0)
    # The first batch is the same; what the method makes of it is not.
    assert none["reward_mean"][0] == tis["reward_mean"][0]
    assert none["log_ratio_abs_mean"][0] == tis["log_ratio_abs_mean"][0]
    assert none["gradient_norm"][0] != tis["gradient_norm"][0]
    assert len({tuple(record.steps["log_ratio_abs_mean"]) for record in story.records}) == CELLS


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
def test_a_cell_comes_out_the_same_again_beside_one_that_fails(story: Story, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(ROOT / "examples/sort16/model", broken)
    (broken / "model.safetensors").write_bytes(b"none")
    tasks = f"tasks={{broken = {{run = {{model = '{broken}'}}}}, sort16 = {{}}}}"
    grid = ("methods=['none']", "formats=['e5m2']", "seeds=[1]", "reference=false", tasks)
    done = ended(tmp_path, "--workers", "1", *(f"--set=compare.{one}" for one in grid))
    assert done.returncode == 1
    assert "broken e5m2 none seed 1 failed: cannot load a causal language model" in done.stdout
    (again,) = read_records(tmp_path / "small" / "cells.jsonl")
    (before,) = (record for record in story.records if record.place == again.place)
    seconds = ("rollout_seconds", "training_seconds")
    assert all(again.steps[name] == column for name, column in before.steps.items() if name not in seconds)
    assert again.evaluations == before.evaluations


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS)
def test_more_seeds_add_cells_to_those_that_are_done(story: Story) -> None:
    listed = ended(story.directory, "--cells", "--set", "compare.seeds=3").stdout
    assert listed.count("done  ") == CELLS
    assert f"{CELLS} of {CELLS + 5} cells are done" in listed
