"""Reading what the trainer writes, one JSON line an optimizer step: while it is being written, or afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class StepLog:
    """Follows a steps file without keeping it. A line counts when its newline is there; a line that is not JSON is
    skipped. A trainer that resumes puts a shorter file in its place, which is read from the beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_number = 0
        self._offset = 0
        self.count = 0
        """Records read of the file that is there now."""

    def new_records(self) -> Iterator[dict[str, Any]]:
        """Records that came since the last call, one by one, nested objects flattened: `phase_seconds.forward`."""
        try:
            with self._path.open("rb") as file:
                if (number := os.fstat(file.fileno()).st_ino) != self._file_number:
                    self._file_number, self._offset, self.count = number, 0, 0
                file.seek(self._offset)
                while (line := file.readline()).endswith(b"\n"):
                    self._offset += len(line)
                    if (record := _parse(line)) is not None:
                        self.count += 1
                        yield record
        except FileNotFoundError:
            return

    def catch_up(self) -> int:
        """Reads on, and gives the number of records there are."""
        for _ in self.new_records():
            pass
        return self.count


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a JSONL file; none if it is not there."""
    return list(StepLog(path).new_records())


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return _flatten(record) if isinstance(record, dict) else None


def _flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
