"""A Valkey server as `ais run` starts it, with more flags where a test wants them; it can be started again."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ais.launcher.processes.commands import LOOPBACK, free_port, valkey
from ais.runtime.network.addresses import authority


class ValkeyProcess:
    """Same port, same data, same flags at every start. Use it as a context."""

    def __init__(self, directory: Path, *flags: str, host: str = LOOPBACK) -> None:
        """`flags`: more options of the server, such as `--requirepass`, `secret`."""
        self.port = free_port()
        self.address = authority(host, self.port)
        self.url = f"redis://{self.address}/0"
        self._command = (*valkey(directory, self.port).arguments, "--bind", host, *flags)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ValkeyProcess:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    def start(self, *flags: str) -> None:
        """Returns at once: who connects waits."""
        self._process = subprocess.Popen((*self._command, *flags), stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
