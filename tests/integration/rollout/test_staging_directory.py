"""The replica's directory for weights: alone its own, gone when it ends, cleared by the next when it was killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ais.rollout.weights.staging import staging_directory

HOLD = """
import sys
from pathlib import Path
from ais.rollout.weights.staging import staging_directory
with staging_directory("ais-test-", Path(sys.argv[1])) as directory:
    (directory / "weights").write_bytes(b"many")
    print(directory, flush=True)
    sys.stdin.read()
"""


@contextmanager
def replica(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that stages weights, and its directory; killed at the end."""
    command = [sys.executable, "-c", HOLD, str(parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_weights_of_a_killed_replica_are_cleared_by_the_next_one(tmp_path: Path) -> None:
    with replica(tmp_path) as (process, left):
        process.kill()
        process.wait()
    assert (left / "weights").is_file()
    with staging_directory("ais-test-", tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []


def test_weights_of_a_replica_that_lives_are_left_alone(tmp_path: Path) -> None:
    with replica(tmp_path) as (_process, theirs), staging_directory("ais-test-", tmp_path):
        assert (theirs / "weights").read_bytes() == b"many"


def test_directories_that_no_replica_has_made_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ais-test-notes").mkdir()
    with staging_directory("ais-test-", tmp_path):
        assert (tmp_path / "ais-test-notes").is_dir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "lock",
    [
        os.mkfifo,
        _socket,
        Path.mkdir,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nothing"),
    ],
    ids=["pipe", "socket", "directory", "device", "dangling link"],
)
def test_whatever_lies_under_the_name_of_a_lock_stops_no_replica(
    lock: Callable[[Path], object], tmp_path: Path
) -> None:
    theirs = tmp_path / "ais-test-theirs"
    theirs.mkdir()
    lock(theirs / "owner.lock")
    os.mkfifo(tmp_path / "ais-test-pipe")
    with staging_directory("ais-test-", tmp_path) as own:
        (own / "weights").write_bytes(b"many")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ais-test-pipe", "ais-test-theirs"]


def test_a_link_to_another_replicas_directory_removes_nothing(tmp_path: Path) -> None:
    with replica(tmp_path) as (process, left):
        process.kill()
        process.wait()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "ais-test-link").symlink_to(left)
    with staging_directory("ais-test-", elsewhere):
        assert (left / "weights").is_file()
