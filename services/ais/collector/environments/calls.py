"""One call of an environment in a worker process, and what is told of it.

The environment crosses to the collector as the text of a pickle, which the collector keeps and never unpickles. What
else is told is JSON, and is checked on both sides of the pipe.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ais.collector.environments.opening import Make
from ais.collector.environments.protocol import PolicyTurn, Prompt, Step
from ais.collector.settings.rewards import LARGEST_SCORE

LONGEST_STATE = 256 * 1024
"""Bytes of a pickled environment."""
MOST_MESSAGES = 64
"""Messages of one answer."""
LONGEST_MESSAGES = 128 * 1024
"""Bytes of all messages of one answer, and of all tools."""


class EnvironmentFaultError(ValueError):
    """An environment gives what an environment cannot give. The message says what was expected."""


@dataclass(frozen=True)
class Reset:
    """Asks for an episode's beginning."""

    source: str
    prompt: Prompt


@dataclass(frozen=True)
class Answer:
    """Asks for the answer to a turn, of the environment that was pickled as `state`."""

    state: str
    turn: PolicyTurn


def opened(make: Make, prompt: Prompt) -> dict[str, Any]:
    """The episode's beginning: {"state", "messages", "tools"}. Raises whatever the environment raises."""
    environment = make()
    messages = _awaited(environment.reset(prompt))
    tools = getattr(environment, "tools", None)
    return {
        "state": _pickled(environment),
        "messages": None if messages is None else messages_in(messages),
        "tools": tools_in(tools),
    }


def answered(state: str, turn: PolicyTurn) -> dict[str, Any]:
    """The answer to a turn: {"state", "messages", "reward", "done"}. Raises whatever the environment raises."""
    environment = pickle.loads(base64.b64decode(state))
    step = _awaited(environment.step(turn))
    if not isinstance(step, Step):
        raise EnvironmentFaultError(f"step must return a Step, got {type(step).__name__}")
    told = {"messages": messages_in(step.messages), "reward": step.reward, "done": step.done}
    step_in(told)
    return told | {"state": _pickled(environment)}


def messages_in(messages: object) -> list[dict[str, Any]]:
    """Messages as an environment gave them. Raises EnvironmentFaultError."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or len(messages) > MOST_MESSAGES:
        raise EnvironmentFaultError(f"expected a list of up to {MOST_MESSAGES} messages, got {type(messages).__name__}")
    for message in messages:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(key), str) for key in _TEXTS):
            raise EnvironmentFaultError("expected messages with the texts role and content")
    made = [dict(message) for message in messages]
    _check_json("messages", made)
    return made


def tools_in(tools: object) -> list[dict[str, Any]] | None:
    """Tool schemas as an environment has them, if it has any. Raises EnvironmentFaultError."""
    if tools is None:
        return None
    if isinstance(tools, str) or not isinstance(tools, Sequence) or not all(isinstance(one, Mapping) for one in tools):
        raise EnvironmentFaultError(f"expected tools to be a list of schemas, got {type(tools).__name__}")
    made = [dict(tool) for tool in tools]
    _check_json("tools", made)
    return made


def step_in(told: Mapping[str, Any]) -> Step:
    """The step that was told. Raises EnvironmentFaultError for what is none."""
    reward, done = told.get("reward"), told.get("done")
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        raise EnvironmentFaultError(f"expected a finite number as reward, got {reward!r:.100}")
    if isinstance(reward, float) and not math.isfinite(reward):  # a whole number may be too large for a float
        raise EnvironmentFaultError(f"expected a finite number as reward, got {reward}")
    if abs(reward) > LARGEST_SCORE:
        raise EnvironmentFaultError(f"expected a reward within +-{LARGEST_SCORE:g}, got {reward!r:.100}")
    if not isinstance(done, bool):
        raise EnvironmentFaultError(f"expected done to be true or false, got {done!r:.100}")
    messages = messages_in(told.get("messages"))
    if not done and not any(message["content"] for message in messages):
        raise EnvironmentFaultError("an episode that is not done needs a message with content for the policy")
    return Step(messages, float(reward), done)


_TEXTS = ("role", "content")


def _check_json(what: str, value: object) -> None:
    """Raises EnvironmentFaultError for what JSON in UTF-8 does not hold, half a surrogate pair included."""
    try:
        size = len(json.dumps(value, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise EnvironmentFaultError(f"expected {what} that JSON can hold: {error}") from error
    if size > LONGEST_MESSAGES:
        raise EnvironmentFaultError(f"expected {what} of up to {LONGEST_MESSAGES} bytes as JSON, got {size}")


def _pickled(environment: object) -> str:
    try:
        packed = pickle.dumps(environment)
    except MemoryError:
        raise
    except Exception as error:  # each object fails in its own way
        raise EnvironmentFaultError(f"the environment cannot be pickled: {type(error).__name__}: {error}") from error
    if len(packed) > LONGEST_STATE:
        raise EnvironmentFaultError(f"the environment has {len(packed)} bytes pickled, at most {LONGEST_STATE} may be")
    return base64.b64encode(packed).decode("ascii")


def _awaited(given: Any) -> Any:
    return _runner().run(_result(given)) if inspect.isawaitable(given) else given


async def _result(given: Any) -> Any:
    return await given


@cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()
