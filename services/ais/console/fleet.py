"""The replicas of a run, as its trainer saw them last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NOTHING: dict[str, Any] = {"time": None, "version": 0, "replicas": []}
"""Before a trainer has looked, and of runs of earlier releases."""


def fleet(path: Path) -> dict[str, Any]:
    """What `fleet.json` says."""
    try:
        found = json.loads(path.read_bytes())
        return {key: found[key] for key in NOTHING}
    except (OSError, ValueError, KeyError, TypeError):
        return NOTHING


def version(path: Path) -> list[int]:
    """Changes with the file."""
    try:
        return [path.stat().st_mtime_ns // 1_000_000]
    except OSError:
        return []
