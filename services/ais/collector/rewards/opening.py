"""From a component's settings to the verifier that judges, and where it may run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards import countdown, functions, json_answers, mathematics, shaping, sudoku
from ais.collector.rewards.answers import multiple_choice, numeric
from ais.collector.rewards.extraction import extracted, hides_something
from ais.collector.rewards.patterns import (
    HASH_PATTERN,
    compiled,
    exact_match,
    last_capture,
    last_step,
    regular_expression,
)
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings import ReasoningGymDataset
from ais.collector.settings.rewards import (
    Component,
    ComponentSettings,
    ExactMatch,
    Format,
    LastStep,
    ReasoningGym,
    RegularExpression,
)
from ais.collector.tasks.reasoning_gym import Scorer

_QUICK = frozenset({"exact_match", "last_step", "numeric", "multiple_choice", "countdown", "sudoku", "overlong"})
_OPENERS: dict[str, Callable[[Any], Verifier]] = {
    "numeric": numeric,
    "multiple_choice": multiple_choice,
    "math_verify": mathematics.math_verify,
    "countdown": countdown.countdown,
    "sudoku": sudoku.sudoku,
    "json_schema": json_answers.json_schema,
    "format": shaping.form,
    "overlong": shaping.overlong,
    "function": functions.function,
}


def open_verifier(component: ComponentSettings, datasets: Iterable[ReasoningGymDataset] = ()) -> Verifier:
    """The verifier that a component asks for. `datasets`: those of reasoning-gym that its prompts come from.

    Raises TaskError for one that cannot be used: a pattern that does not compile, a library that is missing, a function
    that cannot be imported. A `service` is no verifier of this process: `ais.collector.judging.service` asks it.
    """
    if isinstance(component, ExactMatch):
        return exact_match
    if isinstance(component, LastStep):
        return last_step
    if isinstance(component, RegularExpression):
        return regular_expression(compiled(HASH_PATTERN if component.pattern is None else component.pattern))
    if isinstance(component, ReasoningGym):
        return _reasoning_gym(component, datasets)
    return _OPENERS[component.verifier](component)


def is_quick(component: Component) -> bool:
    """Whether the verifier is ours and takes time in proportion to the response, whatever the response is.

    A pattern of the user's may take exponential time, and the libraries parse and evaluate what a policy writes.
    """
    if isinstance(component, RegularExpression | Format):
        return component.pattern is None
    return component.verifier in _QUICK


def _reasoning_gym(component: ReasoningGym, datasets: Iterable[ReasoningGymDataset]) -> Verifier:
    """The reward that reasoning-gym gives to what the last match of the pattern captures, or the answer tags hold; 0
    where there is nothing, or something hidden: the library reads digits of any script.

    It may be a fraction: some datasets give a part to an answer in another form, `countdown` 0.01 even to nonsense.
    """
    pattern = None if component.pattern is None else compiled(component.pattern)
    scorer = Scorer(datasets)

    def verify(response: Response, prompt: Prompt) -> float:
        text = response.text
        answer = extracted(text, "answer_tag") if pattern is None else last_capture(pattern, text)
        return 0.0 if answer is None or hides_something(answer) else scorer.score(answer, prompt)

    return verify
