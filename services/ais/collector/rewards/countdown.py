"""The Countdown game: reach a target with given numbers and + - * / and parentheses."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.extraction import extracted
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings.rewards import Countdown

LONGEST = 300
"""Characters of a calculation."""
_ALLOWED = frozenset("0123456789+-*/() ")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "·": "*"})


def countdown(settings: Countdown) -> Verifier:
    """1 if the extracted calculation uses the numbers of the prompt's metadata and gives its target, exactly.

    The metadata has `numbers`, a list of whole numbers, and `target`; without `target`, the prompt's answer is it. A
    calculation may end with `= target`. Raises ValueError, when it judges, for a prompt without them.
    """

    def verify(response: Response, prompt: Prompt) -> float:
        numbers, target = _puzzle(prompt)
        given = extracted(response.text.translate(_SIGNS), settings.extract)
        if given is None:
            return 0.0
        calculation, equals, result = given.partition("=")
        if equals and result.strip() != str(target):
            return 0.0
        value_and_numbers = calculated(calculation)
        if value_and_numbers is None:
            return 0.0
        value, used = value_and_numbers
        return float(value == target and _are_used(used, numbers, settings.use_all))

    return verify


def calculated(text: str) -> tuple[Fraction, list[int]] | None:
    """The exact value of a calculation and the numbers in it; None for what is no calculation.

    Only what the game has is a calculation: no powers, no floor division, no sign before a number.
    """
    text = text.strip()
    if not text or len(text) > LONGEST or not set(text) <= _ALLOWED:
        return None
    try:
        tree = ast.parse(text, mode="eval")
        used: list[int] = []
        return _value(tree.body, used), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, used: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int() as number):
            used.append(number)
            return Fraction(number)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, used) + _value(right, used)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, used) - _value(right, used)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, used) * _value(right, used)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left, used) / _value(right, used)
    raise ValueError("no calculation of the game")


def _are_used(used: Sequence[int], numbers: Sequence[int], use_all: bool) -> bool:
    return Counter(used) == Counter(numbers) if use_all else Counter(used) <= Counter(numbers)


def _puzzle(prompt: Prompt) -> tuple[list[int], Fraction]:
    numbers = prompt.metadata.get("numbers")
    try:
        if not isinstance(numbers, list) or not numbers:
            raise ValueError("metadata.numbers must be a list of whole numbers")
        return [int(number) for number in numbers], Fraction(str(prompt.metadata.get("target", prompt.answer)))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"prompt {prompt.prompt_id} is no countdown problem: {error}") from error
