"""From an environment's settings to what makes one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from ais.collector.environments.guess_number import GuessNumber
from ais.collector.environments.protocol import Environment
from ais.collector.environments.tools import Calculator
from ais.collector.prompts.prompts import TaskError
from ais.collector.settings.environments import EnvironmentSettings

Make = Callable[[], Environment]

_BUILT_IN: dict[str, Make] = {"guess_number": GuessNumber, "calculator": Calculator}


def open_environment(settings: EnvironmentSettings) -> Make:
    """What makes an environment for each group. Raises TaskError for an object that cannot be imported or is none."""
    if settings.object is None:
        return _BUILT_IN[settings.name]
    module_name, _, name = settings.object.partition(":")
    if settings.directory is not None and str(settings.directory.absolute()) not in sys.path:
        sys.path.insert(0, str(settings.directory.absolute()))
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs anybody's code
        raise TaskError(f"cannot import the environment {settings.object}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise TaskError(f"the environment {settings.object} cannot be called, got {type(found).__name__}")

    def make() -> Environment:
        environment: Environment = found(**settings.parameters)
        return environment

    return make
