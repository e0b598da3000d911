"""The password of a run's Redis: in its config.toml, which is its owner's alone, and nowhere else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.valkey_process import ValkeyProcess

ROOT = Path(__file__).parents[2]
PASSWORD = "h1d/d3n@p#ss"
SMALL = (
    "run.steps=2",
    "run.groups_per_batch=4",
    "rollout.replicas=1",
    "launcher.evaluation_prompts=8",
    "launcher.evaluation_checkpoints=2",
    "rollout.precision.weights=bf16",
    "rollout.precision.kv_cache=bf16",
)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    directory = tmp_path / "valkey"
    directory.mkdir()
    with ValkeyProcess(directory, "--requirepass", PASSWORD) as server:
        yield f"redis://:{PASSWORD}@{server.address}/0"


def command(*arguments: str, directory: Path) -> list[str]:
    overrides = [part for setting in (*SMALL, f"run.directory={directory}") for part in ("--set", setting)]
    return [sys.executable, "-m", "ais.cli", *arguments, "-c", "examples/sort16/config.toml", *overrides]


def ais(*arguments: str, **environment: str) -> str:
    """What it prints, wherever it prints it."""
    done = subprocess.run(
        [sys.executable, "-m", "ais.cli", *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def command_lines(launcher: int) -> set[str]:
    """What every user of the machine can read of the run's processes."""
    lines = set()
    for process in [psutil.Process(launcher), *psutil.Process(launcher).children(recursive=True)]:
        try:
            lines.add(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return lines


async def seen_of(run: asyncio.subprocess.Process) -> set[str]:
    """All command lines that the run ever had, looked at while it goes on."""
    lines: set[str] = set()
    ended = asyncio.create_task(run.wait())
    while not ended.done():
        try:
            lines |= await asyncio.to_thread(command_lines, run.pid)
        except psutil.NoSuchProcess:
            break
        await asyncio.wait([ended], timeout=0.1)
    await ended
    return lines


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_run_with_a_password_shows_it_nowhere(url: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as printed:
        run = await asyncio.create_subprocess_exec(
            *command("run", directory=tmp_path / "runs"),
            cwd=ROOT, env=os.environ | {"AIS_REDIS__URL": url}, stdout=printed, stderr=printed,
        )  # fmt: skip
    lines = await seen_of(run)
    assert run.returncode == 0, output.read_text()
    for service in ("ais.rollout", "ais.collector", "ais.trainer", "ais.collector.evaluation"):
        assert any(service in line for line in lines)
    directory = tmp_path / "runs/demo"
    config = directory / "config.toml"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert config.stat().st_mode & 0o777 == 0o600
    assert PASSWORD in config.read_text()
    texts = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path != config}
    assert directory / "report.html" in texts
    assert directory / "logs/trainer.log" in texts
    printed_later = [
        ais("config", "-c", str(config)),
        ais("config", AIS_REDIS__URL=url),
        ais("deadletter", "show", "1-1", "-c", str(config)),
        ais("resume", str(directory), "--set", "x=1"),
    ]
    written = [text.decode(errors="replace") for text in texts.values()]
    everything = [*lines, output.read_text(), *printed_later, *written]
    assert not [text for text in everything if PASSWORD in text or "d3n@p#ss" in text]
    assert "redis://:***@127.0.0.1" in (directory / "report.html").read_text()
    assert "redis://:***@127.0.0.1" in printed_later[0]


@pytest.mark.parametrize("service", ["rollout", "collector", "trainer"])
def test_a_service_started_by_hand_hides_the_password_that_it_was_given(service: str, tmp_path: Path) -> None:
    """`ais SERVICE --set redis.url=...` becomes the service, whose command line does not have it any more."""
    url = f"redis://:{PASSWORD}@127.0.0.1:1/0"
    overrides = ("--set", f"redis.url={url}", "--set", "redis.connect_timeout_seconds=60")
    started = subprocess.Popen(
        [sys.executable, "-m", "ais.cli", service, *overrides], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process = psutil.Process(started.pid)
        while f"ais.{service}" not in (line := process.cmdline()):
            assert started.poll() is None
        assert PASSWORD not in " ".join(line)
        assert process.environ()["AIS_REDIS__URL"] == url
    finally:
        started.kill()
        started.wait()
