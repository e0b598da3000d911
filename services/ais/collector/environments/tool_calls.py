"""Calls of tools in what the policy writes, in the two forms that chat templates have.

JSON, as those of the Hermes and Qwen2.5 families:

    <tool_call>{"name": "calculate", "arguments": {"expression": "2 * 21"}}</tool_call>

XML, as those of the Qwen3-Coder family, whose values are text; the tool's schema says which of them are JSON:

    <tool_call><function=calculate><parameter=expression>2 * 21</parameter></function></tool_call>
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["json", "xml"]
Tools = Sequence[Mapping[str, Any]]
"""Schemas of tools, as chat templates take them."""
OPENING, FUNCTION, PARAMETER = "<tool_call>", "<function=", "<parameter="
_CALL = re.compile(rf"{OPENING}(.*?)</tool_call>", re.DOTALL)


class NoCallError(ValueError):
    """What was written as a call is none. The message says what was expected."""


@dataclass(frozen=True)
class ToolCall:
    """What is to be called."""

    name: str
    arguments: Mapping[str, Any]


def form_of(template: str) -> Form:
    """How a chat template writes calls. Pure."""
    return "xml" if FUNCTION in template else "json"


def written_calls(text: str) -> list[str]:
    """What stands between the tags of each call."""
    return _CALL.findall(text)


def call_in(written: str, tools: Tools = (), form: Form | None = None) -> ToolCall:
    """The call between the tags, in that form or else in either.

    Raises NoCallError; for what is no JSON, json.JSONDecodeError or RecursionError.
    """
    if form == "xml" or (form is None and written.lstrip().startswith(FUNCTION)):
        return _call_in_xml(written.strip(), tools)
    asked = json.loads(written)
    if not isinstance(asked, Mapping) or not isinstance(asked.get("name"), str) or "arguments" not in asked:
        raise NoCallError("a call has a name and arguments")
    if not isinstance(asked["arguments"], Mapping):
        raise NoCallError("arguments must be an object")
    return ToolCall(asked["name"], asked["arguments"])


def _call_in_xml(written: str, tools: Tools) -> ToolCall:
    head, closed, rest = written.partition(">")
    body, ended, behind = rest.rpartition("</function>")
    name = head.removeprefix(FUNCTION).strip()
    if not (head.startswith(FUNCTION) and name and closed and ended) or behind:
        raise NoCallError(f"a call is {FUNCTION}NAME>...</function>")
    properties, arguments = _properties(name, tools), dict[str, Any]()
    while body.strip():
        before, opened, body = body.partition(PARAMETER)
        key, closed, body = body.partition(">")
        value, ended, body = body.partition("</parameter>")
        if before.strip() or not (opened and closed and ended):
            raise NoCallError(f"arguments are {PARAMETER}NAME>...</parameter>")
        value = value.removeprefix("\n").removesuffix("\n")
        schema = properties.get(key.strip())
        is_text = not isinstance(schema, Mapping) or schema.get("type", "string") == "string"
        arguments[key.strip()] = value if is_text else json.loads(value)
    return ToolCall(name, arguments)


def _properties(name: str, tools: Tools) -> Mapping[str, Any]:
    """Schemas of a tool's parameters, by their names; whoever offers tools may write anything there."""
    for tool in tools:
        function = tool.get("function")
        if isinstance(function, Mapping) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
            return properties if isinstance(properties, Mapping) else {}
    return {}


def split_calls(text: str, tools: Tools, form: Form) -> tuple[str, tuple[ToolCall, ...]]:
    """The text before the first call without the white space at its end, and the calls; where one cannot be read, or be
    told on, all of the text and none. Pure."""
    try:
        calls = tuple(call_in(written, tools, form) for written in written_calls(text))
        for call in calls:
            f"{call.name}{json.dumps(call.arguments, ensure_ascii=False)}".encode()
    except (ValueError, RecursionError):  # no JSON, or half a surrogate pair
        calls = ()
    return (text.partition(OPENING)[0].rstrip(), calls) if calls else (text, ())
