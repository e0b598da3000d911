"""Feeds one target until it has had its inputs: processes, one after the other, in a directory that keeps their finds.

An input that breaks the target ends its process; the next one goes on with another seed. So does the next run in the
same directory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
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


@dataclass
class Outcome:
    """What became of a target."""

    inputs: int = 0
    taken: int = 0
    slowest_seconds: float = 0.0
    processor_seconds: float = 0.0
    """Used by this run, starting of processes included."""
    done_now: int = 0
    """Inputs that this run fed."""
    megabytes: float = 0.0
    """Peak memory of a process."""
    crashes: list[Path] = field(default_factory=list)
    """Inputs that broke it, in this run or before."""


def campaign(
    module: str, name: str, directory: Path, inputs: int, seed: int, most_crashes: int = MOST_CRASHES
) -> Outcome:
    """Brings target `name` of `module` to so many inputs in all. Raises RuntimeError when a process ends before."""
    found = directory / "found"
    for folder in (directory / CORPUS, found):
        folder.mkdir(parents=True, exist_ok=True)
    progress, outcome = Progress(directory / PROGRESS), Outcome()
    before = progress.inputs
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
        said = _run(command, directory / "log", outcome)
        if len(crashes(found)) == known and progress.inputs < inputs:
            raise RuntimeError(f"{name}: its process ended after {progress.inputs - done} inputs: {said[-2000:]}")
    outcome.inputs, outcome.taken, outcome.slowest_seconds = progress.inputs, progress.taken, progress.slowest_seconds
    outcome.done_now, outcome.crashes = progress.inputs - before, crashes(found)
    return outcome


def crashes(found: Path) -> list[Path]:
    """Inputs that broke the target."""
    return sorted(file for file in found.iterdir() if file.name.startswith(FAILURES))


def _run(command: list[str], log: Path, outcome: Outcome) -> str:
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
    outcome.processor_seconds += used.ru_utime + used.ru_stime
    outcome.megabytes = max(outcome.megabytes, used.ru_maxrss / 1024)
    return log.read_text(encoding="utf-8", errors="replace")
