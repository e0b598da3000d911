"""Mathematical answers, compared by the math-verify library: fractions, sets, intervals, matrices, LaTeX."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.rewards.extraction import extracted
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings.rewards import MathVerify


def math_verify(settings: MathVerify) -> Verifier:
    """1 if the extracted answer equals the expected one. Raises TaskError where the library is not installed.

    The library is given the one answer that was extracted and never the whole response, from which it would take
    several candidates. Its own time limits are off: a worker's limit stops what takes too long.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise TaskError(
            f"the verifier math_verify needs the library of that name ({error}): pip install 'ais-rl[rewards]'"
        ) from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of each call without its own time limit

    def parsed(answer: str) -> Any:
        return parse(f"\\boxed{{{answer}}}", parsing_timeout=None)

    expected_of = lru_cache(maxsize=1024)(parsed)

    def judge(response: Response, prompt: Prompt) -> float:
        expected = expected_of(extracted(prompt.answer, "boxed") or _without_dollars(prompt.answer))
        if not expected:
            raise ValueError(f"the answer of prompt {prompt.prompt_id} is no mathematics: {prompt.answer!r}")
        given = extracted(response.text, settings.extract)
        if given is None:
            return 0.0
        return float(verify(expected, parsed(_without_dollars(given)), timeout_seconds=None))

    return judge


def _without_dollars(text: str) -> str:
    return text.strip().strip("$").strip()
