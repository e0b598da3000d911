"""One launcher a run directory, its processes included: a lock that ends with the last of them.

The processes inherit it. When a launcher was killed, whoever resumes its run waits until the old server has let go of
its data and the old trainer has ended.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ais.runtime.process import UnavailableError

WAIT_SECONDS = 30.0
"""Processes of a killed launcher end within this time."""
POLL_SECONDS = 0.2


@asynccontextmanager
async def held(path: Path) -> AsyncIterator[int]:
    """Holds the lock file while the context is open, and gives its descriptor, to be inherited.

    Raises UnavailableError when somebody else holds it for longer than `WAIT_SECONDS`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not _taken(descriptor):
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{path.parent} is in use: processes of an `ais run` there are alive. End it first."
                )
            await asyncio.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a launcher or one of its processes lives."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _taken(descriptor)
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
