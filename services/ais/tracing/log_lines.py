"""What the services' logs say of one group: every line with its id, in order of time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ais.launcher.directory.run_directory import RunDirectory

MOST_LINES = 200
"""The newest are kept: a group has few, but a run may log at debug."""
LONGEST_LINE = 2_000
"""Characters."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


@dataclass(frozen=True)
class LogLine:
    """One line of a process's log."""

    process: str
    time: str
    """UTC, as the log has it; empty where the line has none."""
    text: str


def lines_about(directory: RunDirectory, group_id: str) -> list[LogLine]:
    """Every line of the run's logs that names the group or one of its trajectories."""
    # `demo-3-1` is not named by `demo-3-12` or `a.demo-3-1`
    pattern = re.compile(rf"(?<![\w.-]){re.escape(group_id)}(?![\w.-])")
    found = [line for path in sorted(directory.logs.glob("*.log")) for line in _matching(path, pattern, group_id)]
    return sorted(found, key=lambda line: line.time)[-MOST_LINES:]


def _matching(path: Path, pattern: re.Pattern[str], group_id: str) -> Iterator[LogLine]:
    mark = group_id.encode()
    with path.open("rb") as file:
        for raw in file:
            if mark in raw and pattern.search(text := raw.decode(errors="replace").rstrip("\n")[:LONGEST_LINE]):
                yield LogLine(path.stem, _time_of(text), text)


def _time_of(line: str) -> str:
    if match := _TIME.match(line):
        return match.group()
    try:
        return str(json.loads(line)["time"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
