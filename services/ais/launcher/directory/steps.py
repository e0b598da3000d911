"""Reading what the trainer writes, one JSON line an optimizer step: while it is being written, or afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ais.launcher.directory.lines import JsonLines


class StepLog(JsonLines):
    """Follows a steps file, its nested objects flattened: `phase_seconds.forward`."""

    def new_records(self) -> Iterator[dict[str, Any]]:
        for record in super().new_records():
            yield _flatten(record)

    def catch_up(self) -> int:
        """Reads on, and gives the number of records there are."""
        for _ in self.new_records():
            pass
        return self.count


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a JSONL file; none if it is not there."""
    return list(StepLog(path).new_records())


def _flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
