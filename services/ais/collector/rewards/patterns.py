"""Verifiers that compare the response itself, or what a pattern captures in it."""

from __future__ import annotations

import re

from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.rewards.numbers import number_in
from ais.collector.rewards.response import Response, Verifier
from ais.contracts.sampling import FinishReason

HASH_PATTERN = r"####\s*(\S+)"
STEP_END = re.compile("[,;]")
"""Ends a step of written-out work, but for the last."""


def exact_match(response: Response, prompt: Prompt) -> float:
    """1 if the response was ended by a stop token and is the answer, white space around it aside."""
    return float(response.finish_reason is FinishReason.STOP and response.text.strip() == prompt.answer.strip())


def last_step(response: Response, prompt: Prompt) -> float:
    """1 if the response was ended by a stop token and ends in the answer's last step. The steps before it are free."""
    given, expected = (STEP_END.split(text)[-1].strip() for text in (response.text, prompt.answer))
    return float(response.finish_reason is FinishReason.STOP and given == expected)


def regular_expression(pattern: re.Pattern[str]) -> Verifier:
    """1 if the last match of `pattern` in the response captures the answer, ended or not.

    Where the answer is a number, the capture must be one of the same value: `1,000`, `1000.` and `$1000` answer 1000.
    """

    def verify(response: Response, prompt: Prompt) -> float:
        captured = last_capture(pattern, response.text)
        return float(captured is not None and same_answer(captured, prompt.answer))

    return verify


def same_answer(given: str, expected: str) -> bool:
    """Equal as numbers where `expected` is one, else as text without white space around it."""
    number = number_in(expected)
    return given.strip() == expected.strip() if number is None else number_in(given) == number


def last_capture(pattern: re.Pattern[str], text: str) -> str | None:
    """What the last match captures, without white space around it: its first group that took part, or all of it where
    the pattern has no groups. None where nothing is captured."""
    match = None
    for match in pattern.finditer(text):  # noqa: B007  # the last one
        pass
    if match is None:
        return None
    groups = match.groups() if pattern.groups else (match.group(),)
    return next((str(group).strip() for group in groups if group is not None), None)


def compiled(pattern: str) -> re.Pattern[str]:
    """Raises TaskError for a pattern that does not compile."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise TaskError(f"the verifier's pattern {pattern!r} is not a regular expression: {error}") from error
