"""Reads files of JSON lines that a run may be writing at the moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def whole_lines(file: Path) -> list[dict[str, Any]]:
    """The records of a file but one that is half written; none if it is not there."""
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
