"""What the services' logs say of one group: every record with its id, in order of time."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ais.launcher.directory.run_directory import RunDirectory

MOST_LINES = 200
"""Records. The newest are kept: a group has few, but a run may log at debug."""
LONGEST_LINE = 2_000
"""Characters of a line that are kept; all of it is searched."""
LONGEST_RECORD = 100
"""Lines of a record: one with a traceback has several. Longer ones are taken apart."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_BEGINNING = re.compile(rb'\d{4}-\d\d-\d\dT[\d:.]+Z|\{"')
"""How a record of ours begins; what does not is the next line of the one before."""


@dataclass(frozen=True)
class LogLine:
    """One record of a process's log."""

    process: str
    time: str
    """UTC, as the log has it; empty where the record has none."""
    text: str
    """One line, or several of a record with a traceback."""


def lines_about(directory: RunDirectory, group_id: str) -> list[LogLine]:
    """Every record of the run's logs that names the group or one of its trajectories."""
    # `demo-3-1` is not named by `demo-3-12` or `a.demo-3-1`
    pattern = re.compile(rf"(?<![\w.-]){re.escape(group_id)}(?![\w.-])")
    logs = sorted(directory.logs.glob("*.log"))
    found = [line for path in logs for line in deque(_matching(path, pattern, group_id), MOST_LINES)]
    return sorted(found, key=lambda line: line.time)[-MOST_LINES:]


def _matching(path: Path, pattern: re.Pattern[str], group_id: str) -> Iterator[LogLine]:
    mark = group_id.encode()
    for record in _records(path):
        if any(mark in raw for raw in record):
            lines = [raw.decode(errors="replace").rstrip("\n") for raw in record]
            if any(pattern.search(line) for line in lines):
                yield LogLine(path.stem, _time_of(lines[0]), "\n".join(line[:LONGEST_LINE] for line in lines))


def _records(path: Path) -> Iterator[list[bytes]]:
    record: list[bytes] = []
    with path.open("rb") as file:
        for raw in file:
            if record and (_BEGINNING.match(raw) or len(record) == LONGEST_RECORD):
                yield record
                record = []
            record.append(raw)
    if record:
        yield record


def _time_of(line: str) -> str:
    if match := _TIME.match(line):
        return match.group()
    try:
        return str(json.loads(line)["time"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
