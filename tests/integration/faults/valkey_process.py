"""A Valkey server as `ais run` starts it, that a test kills and starts again on the same data."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ais.launcher.processes.commands import LOOPBACK, free_port, valkey


class ValkeyProcess:
    """Same port, same data, same flags at every start. Use it as a context."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self._command = valkey(directory, self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ValkeyProcess:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    def start(self, *flags: str) -> None:
        """Returns at once: who connects waits."""
        self._process = subprocess.Popen((*self._command.arguments, *flags), stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
