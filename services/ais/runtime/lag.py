"""How late the event loop is: the first sign that a service of one thread has more to do than it can."""

from __future__ import annotations

import asyncio

from prometheus_client import Histogram

PERIOD_SECONDS = 0.1


async def watch_loop_lag(lag: Histogram) -> None:
    """Observes, until cancelled, how much later than asked for a sleeping task wakes up, in seconds."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PERIOD_SECONDS
        await asyncio.sleep(PERIOD_SECONDS)
        lag.observe(max(0.0, loop.time() - due))
