"""Reading what services log, as they write it: `ais.runtime.logging` has the two formats."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 1 << 20
"""Read of one log at once; of more than that, the newest."""

_TEXT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (?P<level>[A-Z]+) +(?P<service>[\w -]+): (?P<message>.*)")


@dataclass(frozen=True)
class LogLine:
    """One record of a service."""

    level: str
    """DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    message: str
    """With its extra fields, where the log is text."""

    @property
    def is_trouble(self) -> bool:
        return self.level in ("WARNING", "ERROR", "CRITICAL")


def parse_line(line: str) -> LogLine | None:
    """None for what is no record of ours: a traceback, a library's own output."""
    if match := _TEXT.fullmatch(line):
        return LogLine(match["level"], match["message"])
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
        return LogLine(str(record["level"]), str(record["message"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class LogFollower:
    """The records that a log gets from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.is_file() else 0

    def new_lines(self) -> Iterator[LogLine]:
        """Whole lines that came since the last call."""
        try:
            with self._path.open("rb") as file:
                behind = os.fstat(file.fileno()).st_size - self._offset
                file.seek(self._offset + max(0, behind - MOST_BYTES))
                data = file.read(MOST_BYTES)
                whole = data[: data.rfind(b"\n") + 1]
                self._offset = file.tell() - len(data) + len(whole)
        except FileNotFoundError:
            return
        for line in whole.decode("utf-8", errors="replace").split("\n"):
            if (found := parse_line(line)) is not None:
                yield found


def last_error(tail: str) -> str:
    """The last error in the end of a log; empty where there is none."""
    records = [record for line in tail.split("\n") if (record := parse_line(line)) is not None]
    return next((record.message for record in reversed(records) if record.level in ("ERROR", "CRITICAL")), "")
