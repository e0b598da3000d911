"""How the Python that has the package is started, and what it is told first."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ais.collector.settings.environments import EnvironmentSettings
from ais.runtime.inherited import inherited, without_proxy

SCRIPT = Path(__file__).with_name("ais_verifiers.py")
Doing = Literal["tasks", "play"]


def command_of(settings: EnvironmentSettings, doing: Doing) -> tuple[str, ...]:
    """The command. -P: nothing is imported from beside the script."""
    interpreter = sys.executable if settings.interpreter is None else str(settings.interpreter.absolute())
    return (interpreter, "-P", str(SCRIPT), doing)


def variables() -> Mapping[str, str]:
    """Its environment: this process's, less what is meant for services of a run. The endpoint is no proxy's affair."""
    return {**inherited(), **without_proxy("127.0.0.1")}


def first_line(settings: EnvironmentSettings, most_tasks: int = 0) -> bytes:
    """What it reads first."""
    assert settings.taskset is not None
    taskset = {**settings.parameters.get("taskset", {}), "id": settings.taskset}
    told = {
        "env": {**settings.parameters, "taskset": taskset},
        "turns": settings.turns,
        "most": most_tasks,
        "directory": None if settings.directory is None else str(settings.directory.absolute()),
    }
    return json.dumps(told).encode() + b"\n"
