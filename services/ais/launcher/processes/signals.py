"""Ctrl-C and SIGTERM cancel the launcher's work, which ends everything it has started on its way out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

SIGNAL_EXIT_BASE = 128
"""A program ended by signal n exits with 128 + n, as shells say."""


def run_cancellable(main: Coroutine[Any, Any, int]) -> int:
    """Runs `main` and gives its exit code, or 128 + the signal's number. A second signal cuts the cleaning up short."""
    return asyncio.run(_cancelled_by_signals(main))


async def _cancelled_by_signals(main: Coroutine[Any, Any, int]) -> int:
    received: list[int] = []
    task = asyncio.create_task(main)

    def cancel(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, cancel, number)
    try:
        return await task
    except asyncio.CancelledError:
        return SIGNAL_EXIT_BASE + received[0]
