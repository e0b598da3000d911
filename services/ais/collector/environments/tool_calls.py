"""Calls of tools in what the policy writes, in the form of the chat templates of the Hermes and Qwen2.5 families:

<tool_call>{"name": "calculate", "arguments": {"expression": "2 * 21"}}</tool_call>
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class NoCallError(ValueError):
    """What was written as a call is none. The message says what was expected."""


@dataclass(frozen=True)
class ToolCall:
    """What is to be called."""

    name: str
    arguments: Mapping[str, Any]


def written_calls(text: str) -> list[str]:
    """What stands between the tags of each call."""
    return _CALL.findall(text)


def call_in(written: str) -> ToolCall:
    """The call between the tags. Raises NoCallError; for what is no JSON, json.JSONDecodeError or RecursionError."""
    asked = json.loads(written)
    if not isinstance(asked, Mapping) or not isinstance(asked.get("name"), str) or "arguments" not in asked:
        raise NoCallError("a call has a name and arguments")
    if not isinstance(asked["arguments"], Mapping):
        raise NoCallError("arguments must be an object")
    return ToolCall(asked["name"], asked["arguments"])


def split_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The text before the first call, and the calls; where one cannot be read, or be told on, all of the text and none.

    Pure.
    """
    try:
        calls = tuple(call_in(written) for written in written_calls(text))
        for call in calls:
            f"{call.name}{json.dumps(call.arguments, ensure_ascii=False)}".encode()
    except (ValueError, RecursionError):  # no JSON, or half a surrogate pair
        calls = ()
    return (text.partition("<tool_call>")[0].strip(), calls) if calls else (text, ())
