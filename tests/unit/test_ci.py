"""`.ci/run` tells a flake from a failure: by a `make` that does as the test says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / ".ci" / "run"

MAKE = """#!/bin/sh
echo "$@" >> made
case "$*" in
  *--last-failed*) exit {again} ;;
  test*) [ {first} = 0 ] || {{ echo "make: *** [Makefile:42: test] Error {first}" >&2; exit 2; }} ;;
esac
"""


def ci(directory: Path, *, first: int, failed: int = 0, again: int = 0) -> subprocess.CompletedProcess[str]:
    """What `.ci/run` does where pytest ends with `first`, `failed` tests failed, and these end with `again` alone."""
    for name in (".ci", "bin", ".venv/bin", ".pytest_cache/v/cache"):
        (directory / name).mkdir(parents=True)
    shutil.copy(CI, directory / ".ci" / "run")
    (directory / ".pytest_cache/v/cache/lastfailed").write_text(json.dumps({f"test_{n}": True for n in range(failed)}))
    python = f'#!/bin/sh\n[ "$1" = -c ] || exec {sys.executable} "$@"\n'
    for program, script in {".venv/bin/python": python, "bin/make": MAKE.format(first=first, again=again)}.items():
        (directory / program).write_text(script)
        (directory / program).chmod(0o755)
    path = {"PATH": f"{directory / 'bin'}:/usr/bin:/bin"}
    return subprocess.run([directory / ".ci" / "run"], env=path, capture_output=True, text=True, timeout=60)


def made(directory: Path) -> list[str]:
    return (directory / "made").read_text().splitlines()


def test_what_passes_is_run_once(tmp_path: Path) -> None:
    assert ci(tmp_path, first=0).returncode == 0
    assert made(tmp_path) == ["check", "test ARGS=--durations=30"]


def test_few_failures_are_run_once_more_alone_and_named(tmp_path: Path) -> None:
    done = ci(tmp_path, first=1, failed=3)
    assert done.returncode == 0
    assert made(tmp_path)[-1] == "test WORKERS=0 ARGS=--last-failed"
    for told in ("3 failed", "test_2", "FLAKY"):
        assert told in done.stdout


@pytest.mark.parametrize(
    ("first", "failed", "again"), [(1, 1, 2), (1, 4, 0), (3, 1, 0), (2, 0, 0)], ids=["twice", "many", "crash", "ended"]
)
def test_anything_else_is_a_failure(first: int, failed: int, again: int, tmp_path: Path) -> None:
    done = ci(tmp_path, first=first, failed=failed, again=again)
    assert done.returncode != 0
    assert "FLAKY" not in done.stdout
