"""Commands that a part starts and does not outlive."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LOOK_SECONDS = 2.0
STOP_SECONDS = 15.0
"""From the request to end to the end by force."""


def run(
    command: Sequence[str | Path], seconds: float, meanwhile: Callable[[], None] = lambda: None, cwd: Path | None = None
) -> tuple[int, bool]:
    """Exit code, and whether the command was ended because `seconds` were over. What it prints is printed here.

    `meanwhile` is called now and then. The command and all that it has started are one group of processes, which is
    gone when this returns.
    """
    begun = time.monotonic()
    late = False
    with subprocess.Popen([str(part) for part in command], start_new_session=True, cwd=cwd) as process:
        try:
            while True:
                try:
                    code = process.wait(LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    meanwhile()
                if not late and time.monotonic() - begun > seconds:
                    late = True
                    process.terminate()
                if time.monotonic() - begun > seconds + STOP_SECONDS:
                    _end_group(process.pid)
        finally:
            _end_group(process.pid)
    return code, late


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
