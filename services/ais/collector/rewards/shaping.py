"""Scores of a response's form and length, whatever it says."""

from __future__ import annotations

from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.patterns import compiled
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings.rewards import Format, Overlong

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def form(settings: Format) -> Verifier:
    """1 if the whole response matches the pattern, or has the four tags once each, in order, with nothing but white
    space outside them. Raises TaskError for a pattern that does not compile."""
    pattern = None if settings.pattern is None else compiled(settings.pattern)

    def verify(response: Response, prompt: Prompt) -> float:  # noqa: ARG001
        text = response.text.strip()
        return float(has_tags(text) if pattern is None else pattern.fullmatch(text) is not None)

    return verify


def has_tags(text: str) -> bool:
    """`<think>...</think> <answer>...</answer>`, each tag once."""
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    starts = [text.index(tag) for tag in TAGS]
    between = text[starts[1] + len(TAGS[1]) : starts[2]]
    return starts == sorted(starts) and starts[0] == 0 and text.endswith(TAGS[3]) and not between.strip()


def overlong(settings: Overlong) -> Verifier:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13), from 0 to -1.

    With L tokens, the longest Lm and the buffer Lc: 0 up to Lm - Lc; ((Lm - Lc) - L) / Lc up to Lm; -1 beyond.
    """

    def verify(response: Response, prompt: Prompt) -> float:  # noqa: ARG001
        longest = response.most_tokens if settings.longest is None else settings.longest
        over = response.tokens - (longest - settings.buffer)
        return -min(1.0, max(0.0, over / settings.buffer))

    return verify
