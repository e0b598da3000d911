"""Lets whoever reads a service's metrics read the last ones: a process that ends at once takes its end with it."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from ais.runtime.tasks import end_tasks

LONGEST_WAIT_SECONDS = 30.0
"""A reader that comes more seldom is not waited for."""
LATE_SECONDS = 5.0
"""How much later than usual a reader may come."""
RECENT = 5
"""Intervals that are remembered: on a busy machine a late reader's next one is short."""


class Readers:
    """Remembers when metrics were read, and how long after the time before."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._intervals: deque[float] = deque(maxlen=RECENT)
        self._read = asyncio.Event()

    def read(self) -> None:
        """Somebody reads them now."""
        now = time.monotonic()
        if self._last is not None:
            self._intervals.append(now - self._last)
        self._last = now
        self._read.set()

    async def last_word(self, stop: asyncio.Event) -> None:
        """Returns when what is shown now has been read, or when `stop` is set; at once where nobody comes regularly."""
        if self._last is None or not self._intervals:
            return
        usual = max(self._intervals)
        due = self._last + usual + LATE_SECONDS - time.monotonic()
        if due <= 0 or usual > LONGEST_WAIT_SECONDS:
            return
        self._read.clear()
        awaited = [asyncio.create_task(event.wait()) for event in (self._read, stop)]
        try:
            await asyncio.wait(awaited, timeout=due, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*awaited)
