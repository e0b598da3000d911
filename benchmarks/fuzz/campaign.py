"""Feeds one target until it has had its inputs: processes, one after the other, in a directory that keeps their finds.

An input that breaks the target ends its process; the next one goes on with another seed. So does the next run in the
same directory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz.progress import CORPUS, PROGRESS, Progress

MOST_CRASHES = 10
"""After so many the target is given up: something is wrong with every other input."""
LONGEST = 4096
"""Bytes of an input."""
SECONDS = 20
"""An input that takes longer is a hang."""
MEGABYTES = 2048
"""Memory of a process, libraries included; what takes more is a crash."""
FAILURES = ("crash-", "timeout-", "oom-")
"""What names of inputs begin with that broke a target; a slow one, which libFuzzer keeps too, is none."""


@dataclass(frozen=True)
class Outcome:
    """What became of a target, in all runs in its directory together."""

    inputs: int
    taken: int
    slowest_seconds: float
    processor_seconds: float
    """Starting of processes included."""
    megabytes: float
    """Peak memory of a process."""
    crashes: list[Path]
    """Inputs that broke it."""


def campaign(
    module: str, name: str, directory: Path, inputs: int, seed: int, most_crashes: int = MOST_CRASHES
) -> Outcome:
    """Brings target `name` of `module` to so many inputs in all. Raises RuntimeError when a process ends before."""
    found = directory / "found"
    for folder in (directory / CORPUS, found):
        folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(directory / PROGRESS)
    while progress.inputs < inputs and len(crashes(found)) < most_crashes:
        known, done = len(crashes(found)), progress.inputs
        options = (
            f"-seed={1 + (seed + done + known) % (2**31 - 1)}",
            f"-runs={inputs - done}",
            f"-max_len={LONGEST}",
            f"-timeout={SECONDS}",
            f"-rss_limit_mb={MEGABYTES}",
            f"-artifact_prefix={found}/",
            "-verbosity=0",
        )
        command = [sys.executable, "-m", "benchmarks.fuzz.process", module, name, str(directory), *options]
        said = _run(command, directory / "log", progress)
        if len(crashes(found)) == known and progress.inputs < inputs:
            raise RuntimeError(f"{name}: its process ended after {progress.inputs - done} inputs: {said[-2000:]}")
    return Outcome(
        progress.inputs,
        progress.taken,
        progress.slowest_seconds,
        progress.processor_seconds,
        progress.megabytes,
        crashes(found),
    )


def crashes(found: Path) -> list[Path]:
    """Inputs that broke the target."""
    return sorted(file for file in found.iterdir() if file.name.startswith(FAILURES))


def _run(command: list[str], log: Path, progress: Progress) -> str:
    """Runs a process to its end, and adds what it used. Gives what it said."""
    with log.open("w+b") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            process.wait()
            raise
    progress.use(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
    return log.read_text(encoding="utf-8", errors="replace")
