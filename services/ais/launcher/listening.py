"""What the services log that a person should see: their warnings, and where their metrics are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ais.launcher.directory.logs import LogFollower
from ais.launcher.display import Display
from ais.launcher.troubles import Troubles

METRICS = "metrics at "
"""Begins the line in which every service says where it serves them (ais.runtime.network.http)."""


class Listener:
    """Follows the logs of a run's processes, from where they end when a process is first seen."""

    def __init__(self, log_path: Callable[[str], Path], display: Display) -> None:
        self._log_path = log_path
        self._display = display
        self._followers: dict[str, LogFollower] = {}
        self._troubles = Troubles()

    def listen(self, processes: Iterable[str], now: float) -> None:
        """Reads on in their logs, and notes what is new. `now`: seconds of a monotonic clock."""
        for name in processes:
            if name not in self._followers:
                self._followers[name] = LogFollower(self._log_path(name))
            for record in self._followers[name].new_lines():
                if record.is_trouble and (text := self._troubles.heard(name, record.message, now)):
                    self._display.note(text)
                elif record.message.startswith(METRICS):
                    self._display.note(f"{name}: {record.message}")
