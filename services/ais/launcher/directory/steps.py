"""Reading what the trainer writes: one JSON line an optimizer step, while it is being written or afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class StepLog:
    """Follows a steps file. A line counts when its newline is there; a line that is not JSON is skipped.

    A trainer that resumes puts a shorter file in its place, which is read from the beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_number = 0
        self._offset = 0
        self.records: list[dict[str, Any]] = []
        """All records so far, nested objects flattened: `phase_seconds.forward`."""

    def read_new(self) -> list[dict[str, Any]]:
        """Records that came since the last call."""
        try:
            with self._path.open("rb") as file:
                if (number := os.fstat(file.fileno()).st_ino) != self._file_number:
                    self._file_number, self._offset, self.records = number, 0, []
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = [record for line in whole.splitlines() if (record := _parse(line)) is not None]
        self.records += new
        return new


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a JSONL file; none if it is not there."""
    log = StepLog(path)
    log.read_new()
    return log.records


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
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
