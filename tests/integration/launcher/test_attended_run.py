"""A run whose services are started one by one has the beginning and the end that `ais run` gives: prepare, conclude."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE

ROOT = Path(__file__).parents[3]
CONFIG = "examples/sort16/config.toml"


def environment(redis_url: str, directory: Path, name: str) -> Mapping[str, str]:
    """A short run, as containers are given it."""
    return os.environ | {
        "AIS_REDIS__URL": redis_url,
        "AIS_RUN__NAME": name,
        "AIS_RUN__DIRECTORY": str(directory),
        "AIS_RUN__STEPS": "2",
        "AIS_RUN__GROUPS_PER_BATCH": "4",
        "AIS_LAUNCHER__EVALUATION_PROMPTS": "8",
    }


def ais(
    command: str, environment: Mapping[str, str], *settings: str, config: str = CONFIG
) -> subprocess.CompletedProcess[str]:
    overrides = [part for setting in settings for part in ("--set", setting)]
    arguments = [sys.executable, "-m", "ais.cli", command, "-c", config, *overrides]
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


@contextmanager
def service(name: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-m", "ais.cli", name, "-c", CONFIG], cwd=ROOT, env=environment)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_services_that_start_one_by_one_leave_what_a_run_leaves(redis_url: str, tmp_path: Path, run_name: str) -> None:
    given = environment(redis_url, tmp_path, run_name)
    assert ais("prepare", given).returncode == 0
    run = tmp_path / run_name
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    with ExitStack() as services:
        for name in ("rollout", "collector", "trainer"):
            services.enter_context(service(name, given))
        done = ais("conclude", given)
    assert done.returncode == 0, done.stderr
    assert "held-out reward, BF16 policy" in done.stdout
    scores = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert {score["step"] for score in scores} == {0, 2}
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert "Held-out reward of the checkpoints" in (run / "report.html").read_text()


def test_a_run_that_is_prepared_again_goes_on_and_is_not_made_another(redis_url: str, tmp_path: Path) -> None:
    given = environment(redis_url, tmp_path, "again")
    assert ais("prepare", given).returncode == 0
    settings, record = tmp_path / "again/config.toml", tmp_path / "again/run.json"
    began, before = record.read_text(), settings.read_text()
    refused = ais("prepare", given, "run.samples_per_group=4")
    assert refused.returncode == EXIT_SETTINGS
    assert "run.samples_per_group (it is 8, not 4)" in refused.stderr
    assert settings.read_text() == before
    assert ais("prepare", given, "run.steps=3").returncode == 0
    assert re.search(r"^steps = 3$", settings.read_text(), re.MULTILINE)
    assert record.read_text() == began


def test_a_run_that_is_prepared_again_takes_no_other_data(redis_url: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "312=", "answer": "123"}\n{"prompt": "21=", "answer": "12"}\n')
    given = environment(redis_url, tmp_path, "data")
    own = ("collector.task.name=jsonl", f"collector.task.file={rows}", "collector.task.held_out_fraction=0.5")
    assert ais("prepare", given, *own).returncode == 0
    assert ais("prepare", given, *own).returncode == 0
    rows.write_text(rows.read_text() + '{"prompt": "31=", "answer": "13"}\n')
    refused = ais("prepare", given, *own)
    assert refused.returncode == EXIT_SETTINGS
    assert f"collector.task.file: {rows} has another content" in refused.stderr


def test_only_the_owner_may_look_into_a_prepared_run(redis_url: str, tmp_path: Path) -> None:
    assert ais("prepare", environment(redis_url, tmp_path, "own")).returncode == 0
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "own/config.toml").stat().st_mode & 0o777 == 0o600


def test_a_model_that_is_not_there_is_refused_before_a_directory_is_made(redis_url: str, tmp_path: Path) -> None:
    done = ais("prepare", environment(redis_url, tmp_path, "none"), f"run.model={tmp_path / 'absent'}")
    assert done.returncode == EXIT_UNAVAILABLE
    assert "is not a Hugging Face model directory" in done.stderr
    assert not (tmp_path / "none").exists()


def test_there_is_nothing_to_conclude_where_nothing_was_prepared(redis_url: str, tmp_path: Path) -> None:
    done = ais("conclude", environment(redis_url, tmp_path, "none"))
    assert done.returncode == EXIT_UNAVAILABLE
    assert "`ais prepare` begins one" in done.stderr
