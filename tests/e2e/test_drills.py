"""Drills of docs/operations.md: what is to be done when something is full or lost, done on a run."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from ais.launcher.directory.history import problems_of
from ais.launcher.directory.run_directory import RunDirectory
from tests.support.runs import EXAMPLES, POLICY, SECONDS, launched, started

DEMO = EXAMPLES / "sort16" / "config.toml"
STEPS = 10
GROUPS = 4
SETTINGS = {
    "run.model": POLICY,
    "run.steps": STEPS,
    "run.groups_per_batch": GROUPS,
    "trainer.checkpoints.every_steps": 2,
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if shutil.which("mount") is None or (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip("this user may not mount a file system" if shutil.which("mount") is None else done.stderr.strip())
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """A file that takes all that is free there, to the last byte."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_disk_is_full_loses_nothing_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "small").symlink_to(small_disk / "small")  # what the run prints stays outside
    with started(DEMO, tmp_path, {**SETTINGS, "run.directory": small_disk}) as run:
        run.until(lambda: len(run.lines("steps")) >= 3)
        ballast = fill(small_disk)
        # It waits, as Redis says so to each service, unless the trainer was about to write a checkpoint.
        wait_until(lambda: "No space left on device" in run.output or run.process.poll() is not None)
        ballast.unlink()
        run.process.wait(SECONDS)
    if run.process.returncode:
        with launched(tmp_path / "small", "resume", str(small_disk / "small")) as run:
            run.ended_well()
    assert problems_of(run.directory, STEPS, GROUPS) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_with_an_older_copy_of_its_queue(tmp_path: Path) -> None:
    """The backup of docs/operations.md, made while the run goes on and restored some steps later."""
    with started(DEMO, tmp_path, SETTINGS) as run:
        run.until(lambda: len(run.lines("steps")) >= 3)
        back_up(run.directory, tmp_path / "copy")
        run.until(lambda: len(run.lines("steps")) >= 6)
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(SECONDS) == 128 + signal.SIGTERM
    restore(run.directory, tmp_path / "copy")
    with launched(run.directory, "resume", str(run.directory)) as run:
        run.ended_well()
    assert problems_of(run.directory, STEPS, GROUPS) == []


def wait_until(condition: Callable[[], bool]) -> None:
    Retrying(retry=retry_if_result(lambda met: not met), stop=stop_after_delay(SECONDS), wait=wait_fixed(0.1))(
        condition
    )


def back_up(run: Path, copy: Path) -> None:
    """As docs/operations.md says."""
    with Redis.from_url(RunDirectory(run).server_url.read_text().strip()) as server:
        server.bgrewriteaof()
        wait_until(lambda: not server.info("persistence")["aof_rewrite_in_progress"])
    shutil.copytree(run / "valkey" / "appendonlydir", copy)


def restore(run: Path, copy: Path) -> None:
    shutil.rmtree(run / "valkey" / "appendonlydir")
    shutil.copytree(copy, run / "valkey" / "appendonlydir")
