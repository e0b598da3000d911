"""A verifier of the user's: `module:function`, sync or async."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Awaitable
from typing import Any

from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings.rewards import Function


def function(settings: Function) -> Verifier:
    """Calls `function(response, answer, metadata, finish_reason)`: text, text, a mapping, and "stop" or "length".

    It gives a number, or a mapping of names to numbers. Raises TaskError where it cannot be imported.
    """
    module_name, _, name = settings.function.partition(":")
    if settings.directory is not None:
        sys.path.insert(0, str(settings.directory.absolute()))
    try:
        called = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # importing runs anybody's code
        raise TaskError(f"cannot import the verifier {settings.function}: {type(error).__name__}: {error}") from error
    if not callable(called):
        raise TaskError(f"the verifier {settings.function} is no function, got {type(called).__name__}")
    runner = asyncio.Runner()

    def verify(response: Response, prompt: Prompt) -> Any:
        given = called(response.text, prompt.answer, dict(prompt.metadata), response.finish_reason.value)
        return runner.run(_awaited(given)) if inspect.isawaitable(given) else given

    return verify


async def _awaited(given: Awaitable[Any]) -> Any:
    return await given
