"""The record of a run, run.json beside its results: when it ran, on what machine and software, and how it ended."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from ais.runtime.files import replace_file

SOFTWARE = ("ais-rl", "torch", "transformers", "vllm")
"""Packages whose versions a result depends on."""


class RunRecord(BaseModel):
    """What is written at the start of a run, and again at its end."""

    name: str
    status: Literal["running", "finished", "failed", "stopped"] = "running"
    """A run that is over and says `running` had its launcher killed."""
    reason: str = ""
    """Why it failed or stopped, or why a finished run was not evaluated."""
    started_at: datetime
    training_seconds: float | None = None
    """From the first process started to the trainer's end."""
    total_seconds: float | None = None
    """The same, with the evaluation."""
    python: str
    machine: str
    software: dict[str, str]

    def write(self, path: Path) -> None:
        """Replaces the record; a reader sees the old one or the new one."""
        replace_file(path, self.model_dump_json(indent=2) + "\n")


def read_record(path: Path) -> RunRecord | None:
    """The record of a run; None where there is none that can be read."""
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def record_of(name: str) -> RunRecord:
    """The record of a run that starts now, here."""
    return RunRecord(
        name=name,
        started_at=datetime.now(UTC),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        software={package: found for package in SOFTWARE if (found := _version(package))},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
