"""One launcher to a run directory, and none before the processes of the last one have ended.

Two locks. The launcher alone holds the first, so it says whether somebody drives the run now. The launcher's processes
inherit the second: when a launcher was killed, whoever resumes its run waits until the old server has let go of its
data and the old trainer has ended. The kernel drops each lock with the last process that holds it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.process import UnavailableError

WAIT_SECONDS = 30.0
"""Processes of a killed launcher end within this time."""
POLL_SECONDS = 0.2
GLANCE_SECONDS = 0.2
"""Whoever asks whether a run is driven has let go of its lock by then."""


@asynccontextmanager
async def held(directory: RunDirectory, note: Callable[[str], None] = lambda _text: None) -> AsyncIterator[int]:
    """Holds both locks while the context is open, and gives the descriptor that the processes are to inherit.

    Raises UnavailableError: when another launcher drives the run, and after `WAIT_SECONDS` when processes of one that
    was killed do not end. `note` is told of the wait.
    """
    launcher = _open(directory.launcher_lock)
    try:
        if not await _taken_soon(launcher):
            raise UnavailableError(
                f"an `ais run` or `ais resume` drives {directory.path} now. Follow it on its own screen, change its "
                f"replicas with `ais scale`, or end it there (Ctrl-C) first."
            )
        processes = _open(directory.processes_lock)
        try:
            await _wait_for(processes, directory.path, note)
            yield processes
        finally:
            os.close(processes)
    finally:
        os.close(launcher)


def is_driven(directory: RunDirectory) -> bool:
    """Whether a launcher is at work in the directory. Several may ask at once."""
    try:
        descriptor = os.open(directory.launcher_lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _taken(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


async def _taken_soon(descriptor: int) -> bool:
    if _taken(descriptor):
        return True
    await asyncio.sleep(GLANCE_SECONDS)
    return _taken(descriptor)


async def _wait_for(descriptor: int, path: Path, note: Callable[[str], None]) -> None:
    if _taken(descriptor):
        return
    note(f"waiting for the processes of an `ais run` in {path} that was killed")
    deadline = time.monotonic() + WAIT_SECONDS
    while not _taken(descriptor):
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"processes of an `ais run` in {path} that was killed are still alive after {WAIT_SECONDS:g} s. "
                "End them first: their command lines name its config.toml."
            )
        await asyncio.sleep(POLL_SECONDS)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UnavailableError(f"the run directory cannot be used: {path}: {error.strerror}") from error


def _taken(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
