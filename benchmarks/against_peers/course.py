"""What is seen of a training while it runs in another process: when each step ended, its reward, the processor time."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

WINDOW = 5
"""A reward is reached when the mean over this many steps in a row is as high."""
WARM_UP_STEPS = 3
"""First steps, which allocate memory and fill caches, are in no step's time."""
POLL_SECONDS = 0.2
STOP_SECONDS = 60.0
OWN_WORDS = "ais: "
"""Begins the line in which `ais run` says why it fails."""


@dataclass(frozen=True)
class Course:
    """Steps of one training, from the first on."""

    times: tuple[float, ...]
    """When each ended, Unix time."""
    rewards: tuple[float, ...]
    """Mean over the batch of each."""
    processor_seconds: float
    """Processor time of one step, all processes together."""

    @property
    def step_seconds(self) -> float:
        """Median from the end of one step to the end of the next."""
        ends = self.times[WARM_UP_STEPS - 1 :]
        return median(after - before for before, after in pairwise(ends))

    def steps_to(self, reward: float) -> int | None:
        """Steps until the reward is reached; None: it was not."""
        return next((count for count in range(WINDOW, len(self.rewards) + 1) if self._mean(count) >= reward), None)

    def seconds_to(self, reward: float) -> float | None:
        """Seconds from the end of the first step, so that nobody's start counts, to the one that reaches the reward."""
        count = self.steps_to(reward)
        return None if count is None else self.times[count - 1] - self.times[0]

    def _mean(self, count: int) -> float:
        return sum(self.rewards[count - WINDOW : count]) / WINDOW


class TrainingFailedError(RuntimeError):
    """A training ended before it had made enough steps to be measured."""

    def __init__(self, message: str, reason: str) -> None:
        """`message`: with the end of its output. `reason`: one line of it."""
        super().__init__(message)
        self.reason = reason


def follow(
    command: Sequence[str], environment: Mapping[str, str], steps: Path, target: float, most_seconds: float
) -> Course:
    """Runs a training until it ends, reaches the reward, or its time is over.

    It writes a line of JSON to `steps` at the end of each step, with `time` and `reward_mean`. Raises
    TrainingFailedError with the end of its output.
    """
    output = steps.parent.parent / f"{steps.parent.name}.log"
    with output.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(command, env=dict(environment), stdout=sink, stderr=subprocess.STDOUT)
        try:
            course = _followed(process, steps, target, time.monotonic() + most_seconds)
        finally:
            _end(process)
    if course is None:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        last = "\n".join(lines[-20:])
        raise TrainingFailedError(
            f"expected more than {WARM_UP_STEPS} steps in {most_seconds:.0f} s of {' '.join(command[:4])} ...; "
            f"its output ends with:\n{last}",
            _reason(lines) or f"it made no {WARM_UP_STEPS} steps in {most_seconds:.0f} s",
        )
    return course


def _reason(lines: Sequence[str]) -> str:
    """What `ais` says that it ends of, else the last line."""
    said = [line.removeprefix(OWN_WORDS) for line in lines if line.startswith(OWN_WORDS)]
    return (said or [line for line in lines if line.strip()] or [""])[-1]


def _followed(process: subprocess.Popen[bytes], steps: Path, target: float, deadline: float) -> Course | None:
    begun: tuple[int, float] | None = None
    seen: tuple[int, float] | None = None
    while True:
        running = process.poll() is None
        records = _whole_lines(steps)
        made = len(records)
        if running and made >= WARM_UP_STEPS and (seen is None or made > seen[0]):
            seen = (made, processor_seconds(process.pid))
            begun = begun or seen
        course = Course(
            tuple(record["time"] for record in records),
            tuple(record["reward_mean"] for record in records),
            (seen[1] - begun[1]) / (seen[0] - begun[0]) if begun and seen and seen[0] > begun[0] else 0.0,
        )
        if not running or time.monotonic() > deadline or course.steps_to(target) is not None:
            return course if course.processor_seconds else None
        time.sleep(POLL_SECONDS)


def _whole_lines(file: Path) -> list[dict[str, float]]:
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def processor_seconds(root: int) -> float:
    """Processor time so far of a process and all below it that live. (Linux only.)"""
    children: defaultdict[int, list[int]] = defaultdict(list)
    used: dict[int, float] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(file.parent.name)
        children[int(fields[1])].append(pid)
        used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    below, total = [root], 0.0
    while below:
        pid = below.pop()
        total += used.get(pid, 0.0)
        below += children[pid]
    return total
