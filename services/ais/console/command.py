"""What `ais console` does once the command line is read."""

from __future__ import annotations

import asyncio
import secrets

from ais.console.alerts import Alerts, Prometheus
from ais.console.door import TOKEN
from ais.console.runs import Runs
from ais.console.server import console_app
from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.network.addresses import http_url
from ais.runtime.network.http import serve
from ais.runtime.stopping import stop_on_signals

HOST = "127.0.0.1"
"""It listens nowhere else: who sits at another machine forwards the port by ssh."""
STOP_SECONDS = 5.0


def show(run: RunDirectory, other: RunDirectory | None, port: int, prometheus: Prometheus | None = None) -> None:
    """Serves the console until a signal comes. Port 0 is a free one. `prometheus`: whose alerts it shows.

    Raises UnavailableError when the port is taken.
    """
    asyncio.run(_show(Runs(run, other), port, Alerts(prometheus)))


async def _show(runs: Runs, port: int, alerts: Alerts) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop, STOP_SECONDS)
    token = secrets.token_urlsafe(24)
    async with serve(console_app(runs, token, alerts), HOST, port) as bound:
        print(f"{runs.path} in a browser:  {http_url(HOST, bound)}/?{TOKEN}={token}")
        print(f"from another machine:  ssh -L {bound}:{HOST}:{bound} THIS_MACHINE, then the same address", flush=True)
        await stop.wait()
