"""Ending asyncio tasks reliably."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

RECANCEL_SECONDS = 0.2
"""A task that has not ended by then is cancelled again."""


async def until_first_end(wanted: Coroutine[Any, Any, None], *beside: asyncio.Task[None]) -> None:
    """Waits for `wanted`, and cancels it if it is left. What fails beside it, such as a display whose reader has left,
    fails it too; the caller ends what is beside it."""
    task = asyncio.create_task(wanted)
    try:
        done, _pending = await asyncio.wait((task, *beside), return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        await end_tasks(task)


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks until they have ended. Each keeps its result or error.

    Once is not enough: before Python 3.12 `asyncio.wait_for` can swallow a cancellation that races with its result, and
    redis-py sends every command through it. A loop of Redis calls would go on for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=RECANCEL_SECONDS)
