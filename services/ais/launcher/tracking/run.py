"""What a tracker is told of a run as a whole: a file in the run's directory, written before the tracker starts."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ais.launcher.directory.record import read_record
from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.tracking.settings import TrackingSettings
from ais.launcher.tracking.tracker import TrackedRun
from ais.runtime.files import replace_file

FILE = "tracking.json"


def write_tracked_run(directory: RunDirectory, settings: Mapping[str, Any]) -> None:
    """Writes the file. `settings`: all sections, as JSON has them, secrets masked. A run that has an id keeps it."""
    file = directory.path / FILE
    identity = _read(file).get("id") or secrets.token_hex(8)
    replace_file(file, json.dumps({"id": identity, "settings": settings}, indent=1) + "\n")


def read_tracked_run(directory: RunDirectory) -> TrackedRun:
    """Raises ValueError where the file is none that `write_tracked_run` wrote."""
    content = _read(directory.path / FILE)
    record = read_record(directory.record)
    machine = record.model_dump(mode="json", include={"python", "machine", "software"}) if record else {}
    return TrackedRun(
        path=directory.path.absolute(),
        name=directory.name,
        id=str(content["id"]),
        settings=TrackingSettings.model_validate(content["settings"]["tracking"]),
        configuration={**content["settings"], **machine},
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    return content if isinstance(content, dict) else {}
