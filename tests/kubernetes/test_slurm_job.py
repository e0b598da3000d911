"""The SLURM job: bash reads it, and what it calls and sets is there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import typer

from ais.cli import app
from ais.issuing import HOLDERS
from ais.settings import load
from tests.support.access.deployment import secrets
from tests.support.charts import ROOT, RUN

JOB = ROOT / "deploy/slurm/train.sbatch"
TEXT = JOB.read_text()

SRUN = """#!/usr/bin/env bash
# Runs what stands behind the options, once, and notes with what.
while [[ $1 == --* ]]; do shift; done
echo "$* [${AIS_REDIS__URL:-}]" >> "$CALLS"
case "$*" in
  redis-server*) exec sleep 60 ;;
  "ais prepare"*) exec bash -c "${PREPARES:-true}" ;;
  "ais trainer"*) exec bash -c "${TRAINS:-true}" ;;
  "ais conclude"*) exec bash -c "${CONCLUDES:-true}" ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Stand-ins of SLURM's programs and of ours, which end at once."""
    programs = {
        "srun": SRUN,
        "scontrol": '#!/bin/sh\n[ "$1" = show ] && printf "node1\\nnode2\\n" || echo "scontrol $*" >> "$CALLS"\n',
        "ais": '#!/bin/sh\necho "ais $*" >> "$CALLS"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    own = {"CALLS": str(tmp_path / "calls"), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}
    return {**os.environ, **own, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_bash_reads_it() -> None:
    done = subprocess.run(["bash", "-n", JOB], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_and_every_setting_in_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    commands = set(re.findall(r'(?:\bais|"\$UNTIL_DONE") ([a-z]+)\b', "\n".join(lines)))
    assert commands == {"secrets", "prepare", "rollout", "collector", "trainer", "conclude"}
    assert commands <= set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    values = {"$1": "trainer", "$FIRST": "node1", "$PORT": "6379", "$SECRETS": str(secrets()), "$GPUS": "8"}

    def filled(text: str) -> str:
        for name, value in values.items():
            text = text.replace(name, value)
        return text

    for name, text in re.findall(r"\b(AIS_[A-Z]+__[A-Z_]+)=(\S+)", "\n".join(lines)):
        monkeypatch.setenv(name, filled(text))
    overrides = [filled(text) for text in re.findall(r'--set "([^"]+)"', TEXT)]
    assert load(RUN, overrides).trainer.ranks.count == 8
    started = set(re.findall(r"^\(as (\w+);", "\n".join(lines), re.MULTILINE))
    assert started == HOLDERS.keys() - {
        "agent",
        "prometheus",
        "redis",
        "redis-exporter",
    }  # agents are on other machines
    for path in re.findall(r"\$SECRETS/(\w+/[\w.]+)", TEXT):
        assert (secrets() / path).is_file()


def test_the_job_starts_every_service_with_its_own_user_and_ends_with_the_evaluation(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    seen = " && ".join(f'grep -q "done {service}" "$CALLS"' for service in ("rollout", "collector"))
    # The job ends what still runs when the trainer and the evaluation have ended: not before it has been seen.
    trains = f"for _ in {{1..200}}; do {seen} && break; sleep 0.1; done"
    done = job(cluster | {"TRAINS": trains}, tmp_path)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert f"ais secrets {tmp_path}/secrets --renew 30" in calls
    for service, command in {
        "rollout": f"done rollout {RUN}",
        "collector": f"done collector {RUN}",
        "evaluation": "conclude",
    }.items():
        assert re.search(rf"{re.escape(command)}.*\[rediss://{service}@node1:6379/0\]", calls), calls
    assert f"ais trainer -c {RUN} --set trainer.ranks.count=8 [rediss://trainer@" in calls


def job(cluster: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    """The job with those stand-ins, which find its process number as JOB."""
    command = ["bash", "-c", f"export JOB=$$; exec bash {JOB} {RUN}"]
    return subprocess.run(command, cwd=directory, env=cluster, capture_output=True, text=True, timeout=60, check=False)


def test_what_prepare_writes_is_for_replicas_on_loopback(cluster: dict[str, str], tmp_path: Path) -> None:
    assert job(cluster | {"PREPARES": 'env | grep AIS_ > "$CALLS.prepare"'}, tmp_path).returncode == 0
    given = dict(line.split("=", 1) for line in (tmp_path / "calls.prepare").read_text().splitlines())
    assert given["AIS_REDIS__CERTIFICATES"] == f"{tmp_path}/secrets/evaluation"
    assert not [name for name in given if name.startswith(("AIS_SECURITY__", "AIS_ROLLOUT__"))]


def test_when_time_is_up_the_trainer_is_told_and_the_job_queued_again(cluster: dict[str, str], tmp_path: Path) -> None:
    told = tmp_path / "told"
    trains = f"trap 'touch {told}; exit 0' TERM; kill -TERM $JOB; while true; do sleep 0.1; done"
    done = job(cluster | {"TRAINS": trains}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert told.exists()
    calls = (tmp_path / "calls").read_text()
    assert "scontrol requeue 7" in calls
    assert "conclude" not in calls


def test_a_signal_before_the_training_queues_the_job_again(cluster: dict[str, str], tmp_path: Path) -> None:
    done = job(cluster | {"PREPARES": "kill -TERM $JOB"}, tmp_path)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert "scontrol requeue 7" in calls
    assert "ais trainer" not in calls


def test_a_signal_when_the_trainer_is_gone_lets_the_evaluation_end(cluster: dict[str, str], tmp_path: Path) -> None:
    ends = 'kill -TERM $JOB; echo "evaluated" >> "$CALLS"'
    done = job(cluster | {"CONCLUDES": ends}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "evaluated" in (tmp_path / "calls").read_text()
