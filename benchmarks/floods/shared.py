"""`python -m benchmarks.floods.shared TOKENS FILE`: what every service has over HTTP, and nothing else.

It writes its port into FILE, and ends by SIGTERM.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ais.launcher.processes.commands import LOOPBACK
from ais.runtime.files import replace_file
from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.http import application, serve
from ais.runtime.security.keyring import Keyring
from ais.runtime.security.roles import Role
from ais.runtime.stopping import stop_on_signals

STOP_SECONDS = 10.0


async def main(tokens: Path, file: Path) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop, STOP_SECONDS)
    app = application("AIS", service_registry("floods"), lambda: None)
    async with serve(app, LOOPBACK, 0, Keyring(tokens).door(*Role)) as port:
        replace_file(file, str(port))
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
