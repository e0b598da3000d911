"""`ais console`, as a user starts it, and a client that has opened its address."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass(frozen=True)
class Console:
    """A console that listens."""

    address: str
    """As it is printed, with the token."""
    client: httpx.Client
    """It has opened the address, and has the cookie."""
    process: subprocess.Popen[str]

    def ask(self, path: str, **parameters: Any) -> Any:
        answer = self.client.get(f"/api/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def console(*arguments: str | Path) -> Iterator[Console]:
    """The console of a run; it must end well when it is told to."""
    command = [sys.executable, "-m", "ais.cli", "console", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        (address,) = re.findall(r"http://\S+", line)
        with httpx.Client(base_url=address.partition("/?")[0], timeout=30) as client:
            assert client.get(address).status_code == 303
            yield Console(address, client, process)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
