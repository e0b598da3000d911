"""How a response is judged: a reward in [0, 1] from its text and the prompt it answers."""

from __future__ import annotations

import re
from collections.abc import Callable

from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.settings import SourceSettings, TaskSettings
from ais.collector.tasks.numbers import number_in
from ais.collector.tasks.reasoning_gym import Scorer
from ais.contracts.sampling import FinishReason

Verifier = Callable[[str, Prompt, FinishReason], float]
"""(response text without special tokens, prompt, finish reason) -> reward."""

DEFAULT_PATTERNS = {"regular_expression": r"####\s*(\S+)", "reasoning_gym": r"(?s)<answer>(.*?)</answer>"}
"""What captures the answer when collector.task.pattern is not set."""


STEP_END = re.compile("[,;]")
"""Ends a step of written-out work, but for the last."""


def exact_match(response: str, prompt: Prompt, finish_reason: FinishReason) -> float:
    """1 if the response was ended by a stop token and is the answer, white space around it aside."""
    return float(finish_reason is FinishReason.STOP and response.strip() == prompt.answer.strip())


def last_step(response: str, prompt: Prompt, finish_reason: FinishReason) -> float:
    """1 if the response was ended by a stop token and ends in the answer's last step. The steps before it are free."""
    given, expected = (STEP_END.split(text)[-1].strip() for text in (response, prompt.answer))
    return float(finish_reason is FinishReason.STOP and given == expected)


def regular_expression(pattern: re.Pattern[str]) -> Verifier:
    """1 if the last match of `pattern` in the response captures the answer, ended or not.

    Where the answer is a number, the capture must be one of the same value: `1,000`, `1000.` and `$1000` answer 1000.
    """

    def verify(response: str, prompt: Prompt, finish_reason: FinishReason) -> float:  # noqa: ARG001
        captured = last_capture(pattern, response)
        return float(captured is not None and same_answer(captured, prompt.answer))

    return verify


def same_answer(given: str, expected: str) -> bool:
    """Equal as numbers where `expected` is one, else as text without white space around it."""
    number = number_in(expected)
    return given.strip() == expected.strip() if number is None else number_in(given) == number


def reasoning_gym(pattern: re.Pattern[str], scorer: Scorer) -> Verifier:
    """The reward that reasoning-gym gives to what the last match of `pattern` captures; 0 where nothing matches.

    It may be a fraction: some datasets give a part to an answer in another form, `countdown` 0.01 even to nonsense.
    """

    def verify(response: str, prompt: Prompt, finish_reason: FinishReason) -> float:  # noqa: ARG001
        answer = last_capture(pattern, response)
        return 0.0 if answer is None else scorer.score(answer, prompt)

    return verify


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


def open_verifier(settings: TaskSettings) -> Verifier:
    """The verifier that the settings ask for: of a mixture, the verifier of the source that a prompt comes from.

    Raises TaskError for a pattern that does not compile, and for a dataset that does not exist."""
    verifiers = {source.effective_label: _verifier_of(source) for source in settings.each_source}
    if len(verifiers) == 1:
        return next(iter(verifiers.values()))

    def verify(response: str, prompt: Prompt, finish_reason: FinishReason) -> float:
        return verifiers[prompt.source](response, prompt, finish_reason)

    return verify


def _verifier_of(settings: SourceSettings) -> Verifier:
    name = settings.effective_verifier
    if name == "exact_match":
        return exact_match
    if name == "last_step":
        return last_step
    text = DEFAULT_PATTERNS[name] if settings.pattern is None else settings.pattern
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise TaskError(f"collector.task.pattern {text!r} is not a regular expression: {error}") from error
    return (
        regular_expression(pattern)
        if name == "regular_expression"
        else reasoning_gym(pattern, Scorer(settings.datasets))
    )
