"""The images' entrypoint: 0 only for work that is done, so that an engine that comes back starts what is not."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest


def started(repository: Path, directory: Path, program: str) -> subprocess.Popen[str]:
    """The entrypoint with a program of this text in the place of `ais`."""
    ais = directory / "ais"
    ais.write_text(f"#!/bin/sh\n{program}\n")
    ais.chmod(0o755)
    return subprocess.Popen(
        ["/bin/sh", str(repository / "deploy/entrypoint.sh"), "trainer", "-c", "a file"],
        env=os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_the_exit_code_of_what_ends_by_itself_stays(repository: Path, tmp_path: Path, code: int) -> None:
    assert started(repository, tmp_path, f"exit {code}").wait(timeout=20) == code


def test_arguments_and_standard_input_are_handed_on(repository: Path, tmp_path: Path) -> None:
    output, _ = started(repository, tmp_path, 'printf "%s\\n" "$@"; cat').communicate("typed\n", timeout=20)
    assert output == "trainer\n-c\na file\ntyped\n"


STOPPABLE = "trap 'sleep 0.2; {end}' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.mark.parametrize(("end", "code"), [("exit 0", 143), ("exit 1", 1)])
def test_what_is_stopped_has_the_time_to_end_and_has_not_done_its_work(
    repository: Path, tmp_path: Path, end: str, code: int
) -> None:
    process = started(repository, tmp_path, STOPPABLE.format(end=end))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == code
