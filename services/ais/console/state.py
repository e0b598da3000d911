"""What state a run is in, in words and numbers: what runs, how far it is, what it was set to."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ais.console.columns import Columns
from ais.launcher.directory.lock import is_driven
from ais.launcher.directory.plots import PLOTS
from ais.launcher.directory.record import RunRecord, read_record
from ais.launcher.directory.run_directory import RunDirectory, early_end

RECENT_STEPS = 20
"""The time that is left is told from the mean of so many steps."""
SILENT_SECONDS = 5.0
"""A run whose last step is younger goes on, whatever else is known of it."""
_SETTINGS = (
    "run.model",
    "run.groups_per_batch",
    "run.samples_per_group",
    "run.max_staleness",
    "rollout.engine",
    "rollout.precision.weights",
    "rollout.precision.granularity",
    "rollout.precision.activations",
    "correction.method",
    "correction.level",
    *(threshold.setting for plot in PLOTS for threshold in plot.thresholds),
)
"""What the page names or draws thresholds from."""


def state(directory: RunDirectory, columns: Columns) -> dict[str, Any]:
    """The state of a run, as JSON."""
    settings = _settings(directory)
    record = read_record(directory.record)
    last = columns.last()
    total, done = _find(settings, "run.steps"), int(last.get("step", 0))
    early = early_end(directory)
    left = 0 if early else max(0, int(total) - done) if isinstance(total, int) else None
    status, reason = _status(directory, record, last.get("time"), left)
    seconds = columns.get("step_seconds")[-RECENT_STEPS:]
    return {
        "name": directory.name,
        "status": status,
        "reason": reason or (early[1] if early else ""),
        "steps": done,
        "total": total,
        "left": left,
        "seconds_left": float(seconds.mean()) * left if len(seconds) and left and status == "training" else None,
        "started": record.started_at.timestamp() if record else None,
        "machine": record.machine if record else "",
        "now": time.time(),
        "last": last,
        "settings": {key: value for key in _SETTINGS if (value := _find(settings, key)) is not None},
    }


def _status(
    directory: RunDirectory, record: RunRecord | None, last_step: float | None, left: int | None
) -> tuple[str, str]:
    """One word, and the reason where there is one."""
    if record is None:
        return "unknown", "it has no run.json"
    if record.status != "running":
        return record.status, record.reason
    doing = "evaluating" if left == 0 else "training"
    if last_step is not None and time.time() - last_step < SILENT_SECONDS:
        return doing, ""
    if not directory.launcher_lock.exists():  # its services are started one by one, as containers are
        return doing, ""
    try:
        driven = is_driven(directory)
    except OSError:  # another user's
        return doing, "whether it still runs cannot be seen: its launcher.lock may not be opened"
    return (doing, "") if driven else ("died", "its launcher was killed; `ais resume` goes on")


def _settings(directory: RunDirectory) -> Mapping[str, Any]:
    try:
        return _parsed(directory.config, directory.config.stat().st_mtime_ns)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=16)
def _parsed(config: Path, _changed: int) -> Mapping[str, Any]:
    """Once for each state of the file, which is long: the page asks every second."""
    return tomllib.loads(config.read_text(encoding="utf-8"))


def _find(settings: Mapping[str, Any], key: str) -> Any:
    found: Any = settings
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
