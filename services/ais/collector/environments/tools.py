"""Tool use: the policy asks for calls of Python functions, is told what they give, and answers at last.

Calls are written as `tool_calls` has them, and a result is a message of role `tool`. A turn without a call is the
answer. Derive an environment of yours from `ToolEnvironment` and give it functions: schemas are made of their
signatures and docstrings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, get_type_hints

from ais.collector.environments.protocol import PolicyTurn, Prompt, Step
from ais.collector.environments.tool_calls import NoCallError, call_in, written_calls
from ais.collector.rewards.countdown import calculated
from ais.collector.rewards.numbers import number_in
from ais.contracts.sampling import FinishReason

MOST_CALLS = 16
"""Calls of one turn that are made; the others are told so."""
LONGEST_RESULT = 4_000
"""Characters of a result that are told."""

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}

Function = Callable[..., object]


def schema_of(function: Function) -> dict[str, Any]:
    """The schema of a function, as chat templates take tools: its parameters must have types that JSON knows.

    Raises ValueError for one that has not.
    """
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    properties = {}
    for name in parameters:
        kind = hints.get(name)
        if kind not in _TYPES:
            raise ValueError(f"tool {function.__name__}: parameter {name} needs one of the types {_names()}")
        properties[name] = {"type": _TYPES[kind]}
    return {
        "type": "function",
        "function": {
            "name": function.__name__,
            "description": inspect.getdoc(function) or "",
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": [name for name, one in parameters.items() if one.default is inspect.Parameter.empty],
            },
        },
    }


def _names() -> str:
    return ", ".join(kind.__name__ for kind in _TYPES)


class ToolEnvironment:
    """Runs the calls of each turn. Override `functions` and `reward`; both must leave the object picklable."""

    def __init__(self) -> None:
        self.prompt = Prompt("", "", "")

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Schemas for the chat template."""
        return [schema_of(function) for function in self.functions()]

    def functions(self) -> Sequence[Function]:
        """What the policy may call."""
        raise NotImplementedError

    def reward(self, answer: str) -> float:
        """What the turn without a call is worth."""
        raise NotImplementedError

    def reset(self, prompt: Prompt) -> None:
        self.prompt = prompt

    def step(self, turn: PolicyTurn) -> Step:
        calls = written_calls(turn.text)
        if not calls or turn.finish_reason is not FinishReason.STOP:
            return Step(reward=self.reward(turn.text), done=True)
        told = [self._result(call) for call in calls[:MOST_CALLS]]
        if len(calls) > MOST_CALLS:
            told.append(f"error: only {MOST_CALLS} calls a turn are made")
        return Step([{"role": "tool", "content": _readable(one)} for one in told])

    def _result(self, written: str) -> str:
        """What a call gives, or in words why it gives nothing."""
        known = {function.__name__: function for function in self.functions()}
        try:
            call = call_in(written, self.tools)
            if call.name not in known:
                return f"error: a call's name is one of {', '.join(known)}"
            return str(known[call.name](**call.arguments))
        except MemoryError:
            raise
        except NoCallError as error:
            return f"error: {error}; the name is one of {', '.join(known)}"
        except Exception as error:  # what the policy asks for may fail in any way, and it is to learn from that
            return f"error: {type(error).__name__}: {error}"


def _readable(result: str) -> str:
    """A result as it is told. JSON can ask for half a surrogate pair, which no tokenizer takes."""
    return result[:LONGEST_RESULT].encode(errors="replace").decode()


def calculate(expression: str) -> str:
    """Calculates an expression of whole numbers with + - * / and parentheses."""
    found = calculated(expression)
    if found is None:
        raise ValueError("no calculation of whole numbers with + - * / and parentheses")
    value = found[0]
    return str(value)


class Calculator(ToolEnvironment):
    """1 where the last number of the answer is the prompt's answer, a whole number, a decimal or a fraction."""

    def functions(self) -> Sequence[Function]:
        return (calculate,)

    def reward(self, answer: str) -> float:
        words = answer.replace("=", " ").split()
        last = next((found for word in reversed(words) if (found := _fraction(word.strip(".,;:!?"))) is not None), None)
        expected = _fraction(self.prompt.answer.strip())
        if expected is None:
            raise ValueError(f"the prompt's answer is no number: {self.prompt.answer[:100]!r}")
        return float(last == expected)


def _fraction(text: str) -> Fraction | None:
    top, slash, bottom = text.partition("/")
    number, divisor = number_in(top), number_in(bottom) if slash else None
    if number is None or (slash and not divisor):
        return None
    return Fraction(number) / Fraction(divisor) if divisor else Fraction(number)
