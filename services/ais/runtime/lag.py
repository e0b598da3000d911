"""How late the event loop is: the first sign that a single-threaded service has more work than it can do."""

from __future__ import annotations

import asyncio

from prometheus_client import Histogram

PERIOD_SECONDS = 0.1


async def watch_loop_lag(lag: Histogram) -> None:
    """Observes how many seconds late a sleeping task wakes up, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PERIOD_SECONDS
        await asyncio.sleep(PERIOD_SECONDS)
        lag.observe(max(0.0, loop.time() - due))
