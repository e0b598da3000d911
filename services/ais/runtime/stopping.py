"""SIGTERM and SIGINT: they ask the event loop to stop, and end the process in time if the loop does not hear them.

A thread of its own waits for the signals and keeps the deadline, so a loop that computes or blocks delays neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import threading
import time

from ais.runtime.exits import EXIT_FAILED

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST_RESORT_SECONDS = 2.0
"""After the deadline: when the process is ended without Python, whose lock something may hold for good."""
_STANDARD_ERROR = 2

logger = logging.getLogger(__name__)


def stop_on_signals(stop: asyncio.Event, seconds: float) -> None:
    """From now on a signal sets `stop`, and ends the process with exit code 1 `seconds` later if it still runs then.

    Call it once, in the main thread, inside the event loop that `stop` belongs to.
    """
    arrived, told = os.pipe()
    os.set_blocking(told, False)
    for number in SIGNALS:
        signal.signal(number, _noted)
    # The interpreter writes a signal's number there as soon as it arrives, whatever the main thread is busy with.
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    loop = asyncio.get_running_loop()
    threading.Thread(target=_keep_deadline, args=(arrived, loop, stop, seconds), name="stopping", daemon=True).start()


def _noted(_number: int, _frame: object) -> None:
    """A handler there must be, or the interpreter writes nothing."""


def _keep_deadline(arrived: int, loop: asyncio.AbstractEventLoop, stop: asyncio.Event, seconds: float) -> None:
    while os.read(arrived, 1)[0] not in SIGNALS:
        pass
    faulthandler.dump_traceback_later(seconds + LAST_RESORT_SECONDS, exit=True, file=_STANDARD_ERROR)
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(stop.set)
    time.sleep(seconds)
    logger.error("still running %g s after a signal to stop: the process ends now, its threads were at", seconds)
    faulthandler.dump_traceback(_STANDARD_ERROR)
    os._exit(EXIT_FAILED)
