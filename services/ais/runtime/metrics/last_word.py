"""Lets whoever reads a service's metrics read the last ones: a process that ends at once takes its end with it."""

from __future__ import annotations

import asyncio
import time

LONGEST_WAIT_SECONDS = 30.0
"""A reader that comes more seldom is not waited for."""
READS_KEPT_SECONDS = 2 * LONGEST_WAIT_SECONDS


class Readers:
    """Remembers when metrics were read."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._read = asyncio.Event()

    def read(self) -> None:
        """Somebody reads them now."""
        self._last = time.monotonic()
        self._read.set()

    async def last_word(self) -> None:
        """Returns when what is shown now has been read; at once where nobody has come for a minute."""
        if self._last is None or time.monotonic() - self._last > READS_KEPT_SECONDS:
            return
        self._read.clear()
        try:
            await asyncio.wait_for(self._read.wait(), LONGEST_WAIT_SECONDS)
        except TimeoutError:
            return
