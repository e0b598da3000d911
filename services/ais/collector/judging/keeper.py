"""Keeps one judging worker: `python -m ais.collector.judging.keeper` forks it and outlives it by a moment. With the
arguments `MEGABYTES PROGRAM ...` it keeps that program instead, each process of which may have so much memory; 0: any.

A verifier may start processes and leave them behind, detached or not, and may crash. Whatever its worker starts stays
below this process (a Linux subreaper adopts orphans), and is killed when the worker has ended, when this process is
told to end (SIGTERM), and when the collector is gone. So it must be small and do nothing else: it imports nothing that
judges. Exit code: the worker's, or 128 plus the signal that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MOST_ROUNDS = 1000
"""Rounds of killing, against a verifier that forks as fast as it is killed."""


def main() -> None:
    signals = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the collector, which ends us
    adopt_orphans()
    _signal_with_parent(signal.SIGTERM)
    worker = os.fork()
    if worker == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        _become_worker()
    with contextlib.suppress(PermissionError):  # it has done so itself, and is the program already
        os.setpgid(worker, worker)
    os.close(0)
    os.close(1)  # its end is the end of the worker's replies
    status = None
    while status is None and signal.sigwait(signals) is not signal.SIGTERM:
        status = _ended(worker)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)
    kill_children()
    os._exit(0 if status is None else status if status >= 0 else 128 - status)


def adopt_orphans() -> None:
    """Processes below this one whose parents end become its children. (Linux only.)"""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def kill_children() -> None:
    """Kills and reaps children until there are none; the children of a killed one become ours, and are next."""
    for _ in range(MOST_ROUNDS):
        children = _children()
        for child in children:
            os.kill(child, signal.SIGKILL)
        try:
            for _ in range(max(1, len(children))):
                os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _become_worker() -> None:
    os.setpgid(0, 0)
    _signal_with_parent(signal.SIGKILL)
    try:
        if arguments := sys.argv[1:]:
            megabytes, *command = arguments
            _limit_memory(int(megabytes))
            os.execvp(command[0], command)
        from ais.collector.judging.worker import main as work

        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _limit_memory(megabytes: int) -> None:
    """Bounds the addresses of this process, and of each that comes of it; 0 leaves them as they are."""
    if megabytes:
        bound = megabytes * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def _signal_with_parent(number: signal.Signals) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def _ended(worker: int) -> int | None:
    """Reaps what has ended. The exit code of the worker, negative for a signal; None while it runs."""
    found = None
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if process == 0:
            return found
        if process == worker:
            found = os.waitstatus_to_exitcode(status)


def _children() -> list[int]:
    """Our living and dead children. (Linux only; elsewhere the worker's process group is all that is known.)"""
    task = Path("/proc/self/task")
    if not task.is_dir():
        return []
    return [
        int(child) for thread in task.iterdir() for child in (thread / "children").read_text(encoding="ascii").split()
    ]


if __name__ == "__main__":
    main()
