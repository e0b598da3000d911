"""Verifiers of short answers: a number within a tolerance, a letter of a choice."""

from __future__ import annotations

from decimal import Decimal

from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.extraction import extracted
from ais.collector.rewards.numbers import number_in
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings.rewards import MultipleChoice, Numeric

_WRAPPINGS = (("(", ")"), ("[", "]"), ("{", "}"), ("**", "**"), ("$", "$"), ("\\text{", "}"), ("\\textbf{", "}"))
"""What people put around the letter of a choice."""


def numeric(settings: Numeric) -> Verifier:
    """1 if the extracted answer is a number within the tolerance of the expected one. Raises ValueError, when it
    judges, for a prompt whose answer is no number."""
    relative, absolute = Decimal(settings.tolerance), Decimal(settings.absolute_tolerance)

    def verify(response: Response, prompt: Prompt) -> float:
        expected = number_in(prompt.answer)
        if expected is None:
            raise ValueError(f"the answer of prompt {prompt.prompt_id} is no number: {prompt.answer!r}")
        given = extracted(response.text, settings.extract)
        number = None if given is None else number_in(given)
        if number is None:
            return 0.0
        return float(abs(number - expected) <= max(relative * abs(expected), absolute))

    return verify


def multiple_choice(settings: MultipleChoice) -> Verifier:
    """1 if the extracted answer is the expected letter and nothing else: `B`, `b`, `(B)`, `B.`, `B)` or `**B**`.
    Raises ValueError, when it judges, for a prompt whose answer is no letter of the choice."""

    def verify(response: Response, prompt: Prompt) -> float:
        expected = letter_of(prompt.answer)
        if expected is None or expected not in settings.letters:
            raise ValueError(
                f"the answer of prompt {prompt.prompt_id} is none of {settings.letters}: {prompt.answer!r}"
            )
        given = extracted(response.text, settings.extract)
        return float(given is not None and letter_of(given) == expected)

    return verify


def letter_of(text: str) -> str | None:
    """The letter that `text` is, as a capital; None for anything else."""
    text = text.strip()
    for _ in range(3):
        text = text.removesuffix(".").strip()
        for before, after in _WRAPPINGS:
            if len(text) > len(before) + len(after) and text.startswith(before) and text.endswith(after):
                text = text[len(before) : -len(after)].strip()
    text = text.removesuffix(")").removesuffix(":").removesuffix(".")
    return text.upper() if len(text) == 1 and text.isascii() and text.isalpha() else None
