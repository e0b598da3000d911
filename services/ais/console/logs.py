"""The ends of a run's logs, made safe to show."""

from __future__ import annotations

from pathlib import Path

from ais.runtime.network.redis_url import without_passwords
from ais.runtime.text import escaped

LONGEST_TAIL = 64 * 1024
"""Bytes of a log that are shown."""


def log_names(logs: Path) -> list[str]:
    """Names of the logs of a run's processes."""
    return sorted(path.stem for path in logs.glob("*.log"))


def tail(logs: Path, name: str) -> str | None:
    """The last whole lines of a log; None for one that is not there."""
    if name not in log_names(logs):
        return None
    with (logs / f"{name}.log").open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LONGEST_TAIL))
        data = file.read(LONGEST_TAIL)
    if size > LONGEST_TAIL:
        data = data[data.find(b"\n") + 1 :]
    return escaped(without_passwords(data.decode(errors="replace")), keep="\n\t")
