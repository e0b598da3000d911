"""The queue with users and mutual TLS, and without: processor time of its two processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from ais.issuing import ACL
from ais.launcher.processes.commands import LOOPBACK, free_port, valkey
from ais.runtime.network.addresses import authority
from benchmarks import queue

Times = dict[str, list[float]]
"""Processor seconds of each round, `open` and `secured`."""


def progress(part: str, number: int, times: Times) -> None:
    last = {way: values[-1] for way, values in times.items()}
    print(f"{part} {number}: {last['open']:.3f} s open, {last['secured']:.3f} s secured", file=sys.stderr, flush=True)


class TimedClock:
    """Notes the processor time of this process when it is let through."""

    def __init__(self, clock: queue.Clock) -> None:
        self._clock = clock
        self.passed: list[float] = []

    def wait(self) -> None:
        if self.passed:  # what it does while it waits for the others is nobody's work
            self.passed.append(time.process_time())
        self._clock.wait()
        if not self.passed:
            self.passed.append(time.process_time())


def timed(directory: Path, secrets: Path | None, work: Callable[[queue.Job], None], job: queue.Job) -> None:
    """Runs one process's work, and leaves its processor seconds in a file."""
    clock = TimedClock(job.clock)
    work(replace(job, clock=clock, secrets=secrets))
    (directory / work.__name__).write_text(str(clock.passed[1] - clock.passed[0]), encoding="utf-8")


@contextmanager
def forwarded(secrets: Path | None, directory: Path) -> Iterator[str]:
    """URL of a fresh Valkey server behind a forwarder, which speaks TLS and has users where there are `secrets`."""
    port = free_port()
    users = () if secrets is None else ("--aclfile", str(secrets / ACL))
    own = () if secrets is None else (str(secrets / "redis"),)
    forwarder = (sys.executable, "-m", "benchmarks.support.forwarder", str(port), *own)
    with (
        subprocess.Popen((*valkey(directory, port).arguments, *users), stdout=subprocess.DEVNULL) as server,
        subprocess.Popen(forwarder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as between,
    ):
        assert between.stdin is not None
        assert between.stdout is not None
        try:
            yield f"redis://{authority(LOOPBACK, int(between.stdout.readline()))}/0"
        finally:
            between.stdin.close()
            server.terminate()


def measure_queue(secrets: Path, groups: int, rounds: int) -> Times:
    times: Times = {"open": [], "secured": []}
    for number in range(rounds):
        for way, own in (("open", None), ("secured", secrets)):
            with tempfile.TemporaryDirectory() as directory:
                wrap = partial(timed, Path(directory), own)
                queue.seconds("ours", groups, wrap, partial(forwarded, own))
                used = [float(file.read_text(encoding="utf-8")) for file in Path(directory).iterdir()]
                assert len(used) == 2
            times[way].append(sum(used))
        progress("queue", number, times)
    return times
