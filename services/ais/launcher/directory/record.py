"""The record of a run: when it ran, on what machine and software, how it ended. Kept as run.json beside its results."""

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
    """Written at the start, and again at the end."""

    name: str
    status: Literal["running", "finished", "failed", "stopped"] = "running"
    """`running` in a run that is over: its launcher was killed."""
    reason: str = ""
    """Why it failed or stopped, or why a finished run was not evaluated."""
    started_at: datetime
    training_seconds: float | None = None
    """From the first process started to the trainer's end."""
    total_seconds: float | None = None
    """With the evaluation."""
    python: str
    machine: str
    software: dict[str, str]

    def write(self, path: Path) -> None:
        """Atomically: a reader sees the old record or the new one."""
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
