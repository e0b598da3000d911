"""Following files of JSON lines that another process writes, without reading anything twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class JsonLines:
    """Follows a file without keeping it. A line counts when its newline is there; one that is no JSON object is
    skipped. A trainer that resumes puts a shorter file in its place, which is read from the beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_number = 0
        self._offset = 0
        self.count = 0
        """Records read of the file that is there now."""
        self.generation = 0
        """Files read so far: it grows when another one, or a shorter one, has come into the place of the last."""
        self.behind = 0
        """Bytes of the file that were not read yet, when it was looked at last."""

    def new_records(self) -> Iterator[dict[str, Any]]:
        """Records that came since the last call, one by one. Who stops early gets the others from the next call."""
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._file_number or stat.st_size < self._offset:
                    self._file_number, self._offset, self.count = stat.st_ino, 0, 0
                    self.generation += 1
                file.seek(self._offset)
                self.behind = stat.st_size - self._offset
                while (line := file.readline()).endswith(b"\n"):
                    self._offset += len(line)
                    self.behind = max(0, stat.st_size - self._offset)
                    if (record := _parsed(line)) is not None:
                        self.count += 1
                        yield record
        except FileNotFoundError:
            return


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
