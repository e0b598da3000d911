"""How a response is judged: a reward in [0, 1] from its text and the prompt's answer."""

from __future__ import annotations

import re
from collections.abc import Callable

from services.collector.settings import TaskSettings
from services.collector.tasks import TaskError
from services.contracts.sampling import FinishReason

Verifier = Callable[[str, str, FinishReason], float]
"""(response text without special tokens, answer, finish reason) -> reward."""


def exact_match(response: str, answer: str, finish_reason: FinishReason) -> float:
    """1 if the response, ended by its stop token, is the answer but for white space around it."""
    return float(finish_reason is FinishReason.STOP and response.strip() == answer.strip())


def regular_expression(pattern: re.Pattern[str]) -> Verifier:
    """1 if the last match of `pattern` in the response captures the answer, ended or not."""

    def verify(response: str, answer: str, finish_reason: FinishReason) -> float:  # noqa: ARG001
        matches = list(pattern.finditer(response))
        if not matches:
            return 0.0
        captured = matches[-1].group(1 if pattern.groups else 0)
        return float(captured is not None and captured.strip() == answer.strip())

    return verify


def open_verifier(settings: TaskSettings) -> Verifier:
    """Raises TaskError for a pattern that does not compile."""
    if settings.verifier == "exact_match":
        return exact_match
    try:
        return regular_expression(re.compile(settings.pattern))
    except re.error as error:
        raise TaskError(f"collector.task.pattern {settings.pattern!r} is not a regular expression: {error}") from error
