"""Settings of a reward: components with names and weights, each judged by a verifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ais.runtime.settings import Count, Seconds, Section

MOST_COMPONENTS = 10
"""With the largest weight and `LARGEST_SCORE`, as much as a reward may be (`ais.contracts.limits.LARGEST_REWARD`)."""
LARGEST_WEIGHT = 10.0
LARGEST_SCORE = 1e4
"""Largest absolute score of a component: a verifier that gives more has failed."""

Extraction = Literal["whole", "answer_tag", "boxed", "hash"]
"""Where the answer stands in a response: all of it, the last `<answer>...</answer>`, the last `\\boxed{...}`, or what
follows the last `####` in its line."""


class ComponentSettings(Section):
    """What every component of a reward has."""

    name: str = Field(default="", pattern=r"^([a-z][a-z0-9_]{0,63})?$")
    """What records and metrics call it. Empty: the verifier's name."""
    weight: float = Field(default=1.0, ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)
    """The reward is the sum of all scores, each times its weight. 0: measured only."""
    verifier: str

    @property
    def label(self) -> str:
        """Its name in records and metrics."""
        return self.name or self.verifier


class ExactMatch(ComponentSettings):
    """1 when the whole response is the answer, letter by letter, and was not cut off."""

    verifier: Literal["exact_match"] = "exact_match"


class LastStep(ComponentSettings):
    """1 when what the response ends in, after its last `,` or `;`, is what the answer ends in, and was not cut off."""

    verifier: Literal["last_step"] = "last_step"


class RegularExpression(ComponentSettings):
    """1 when what the pattern's last match captures is the answer, compared as a number where the answer is one."""

    verifier: Literal["regular_expression"] = "regular_expression"
    pattern: str | None = None
    r"""Its first group that took part counts, or all of it where the pattern has no groups. None: `####\s*(\S+)`."""


class Numeric(ComponentSettings):
    """1 when the extracted answer is a number close enough to the expected one."""

    verifier: Literal["numeric"] = "numeric"
    extract: Extraction = "answer_tag"
    """Where the answer stands."""
    tolerance: float = Field(default=1e-6, ge=0.0, le=1.0)
    """Allowed difference relative to the expected number."""
    absolute_tolerance: float = Field(default=0.0, ge=0.0, le=1e300)
    """Allowed difference in itself; the larger one of the two counts."""


class MathVerify(ComponentSettings):
    """1 when math-verify finds the extracted answer equal to the expected one. Needs the extra `rewards`."""

    verifier: Literal["math_verify"] = "math_verify"
    extract: Extraction = "boxed"
    """Where the answer stands."""


class MultipleChoice(ComponentSettings):
    """1 when the extracted answer is the expected letter and nothing else."""

    verifier: Literal["multiple_choice"] = "multiple_choice"
    extract: Extraction = "answer_tag"
    """Where the answer stands."""
    letters: str = Field(default="ABCDE", pattern=r"^[A-Z]{2,26}$")
    """The letters there are to choose from."""


class Countdown(ComponentSettings):
    """1 when the extracted answer is a calculation with the given numbers that gives the target."""

    verifier: Literal["countdown"] = "countdown"
    extract: Extraction = "answer_tag"
    """Where the calculation stands."""
    use_all: bool = True
    """Each number exactly once; false: at most once."""


class Sudoku(ComponentSettings):
    """1 when the extracted answer is a filled grid that keeps the rules and the puzzle's digits."""

    verifier: Literal["sudoku"] = "sudoku"
    extract: Extraction = "answer_tag"
    """Where the grid stands."""


class JsonSchema(ComponentSettings):
    """1 when the extracted answer is JSON that a schema accepts. Needs the extra `rewards`."""

    verifier: Literal["json_schema"] = "json_schema"
    extract: Extraction = "whole"
    """Where the JSON stands. A fence (```json) around it may be there."""
    json_schema: dict[str, Any] = Field(default_factory=dict)
    """The schema. Empty: `schema` of each prompt's metadata."""
    equal: bool = False
    """Whether it must also be equal, as JSON, to the prompt's answer."""


class ReasoningGym(ComponentSettings):
    """The score of the reasoning-gym library for what the pattern's last match captures."""

    verifier: Literal["reasoning_gym"] = "reasoning_gym"
    pattern: str | None = None
    """None: what the last `<answer>...</answer>` holds."""


class Format(ComponentSettings):
    """1 when the response has the form that is asked for, whatever it says."""

    verifier: Literal["format"] = "format"
    pattern: str | None = None
    """A pattern that the whole response must match. None: `<think>...</think>` and then `<answer>...</answer>`, each
    tag once."""


class Overlong(ComponentSettings):
    """DAPO's soft punishment of long responses: 0, falling to -1 over the last `buffer` tokens before `longest`."""

    verifier: Literal["overlong"] = "overlong"
    longest: Count | None = None
    """Tokens from which the punishment is -1. None: collector.sampling.max_new_tokens."""
    buffer: Count
    """Tokens over which it grows."""


class Function(ComponentSettings):
    """A function of yours, called in a worker process: (response, answer, metadata, finish_reason) -> number."""

    verifier: Literal["function"] = "function"
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", max_length=500)
    """`module:function`. It may be async, and may give a mapping of names to numbers: components of their own."""
    directory: Path | None = None
    """Where its module lies. None: where Python finds it, the current directory included."""


class Service(ComponentSettings):
    """An HTTP service that judges: a judge model, a code sandbox. docs/rewards.md says what it is sent."""

    verifier: Literal["service"] = "service"
    url: str = Field(pattern=r"^https?://[^\s/?#]+[^\s#]*$", max_length=2000)
    """Where responses are sent by POST."""
    batch: int = Field(default=32, ge=1, le=4096)
    """Responses of a group that one request has at most."""
    connections: int = Field(default=16, ge=1, le=1024)
    """Requests under way at once."""
    deadline_seconds: Seconds = 30.0
    """A request that is not answered by then is tried again."""
    retries: int = Field(default=3, ge=0, le=100)
    """How often a request is tried again, with back-off, after no answer, status 429 or 5xx."""
    header: str = Field(default="Authorization", pattern=r"^[A-Za-z0-9-]{1,64}$")
    """The header that carries the secret."""
    secret_environment: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    """Environment variable of the collector that holds the header's value, such as `Bearer abc`."""
    secret_file: Path | None = None
    """File that holds it instead."""

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if self.secret_environment and self.secret_file is not None:
            raise ValueError("secret_environment and secret_file: set one of them")
        return self


Component = Annotated[
    ExactMatch
    | LastStep
    | RegularExpression
    | Numeric
    | MathVerify
    | MultipleChoice
    | Countdown
    | Sudoku
    | JsonSchema
    | ReasoningGym
    | Format
    | Overlong
    | Function
    | Service,
    Field(discriminator="verifier"),
]

Reward = Annotated[tuple[Component, ...], Field(max_length=MOST_COMPONENTS)]
"""The components of a reward."""

VerifierName = Literal[
    "exact_match",
    "last_step",
    "regular_expression",
    "numeric",
    "math_verify",
    "multiple_choice",
    "countdown",
    "sudoku",
    "reasoning_gym",
]
"""The verifiers that need no settings: `verifier` alone may name them."""

_WITHOUT_SETTINGS: dict[str, type[ComponentSettings]] = {
    "exact_match": ExactMatch,
    "last_step": LastStep,
    "numeric": Numeric,
    "math_verify": MathVerify,
    "multiple_choice": MultipleChoice,
    "countdown": Countdown,
    "sudoku": Sudoku,
}


def single(verifier: VerifierName, pattern: str | None) -> Component:
    """The one component of a reward that a name and perhaps a pattern say. Raises ValueError for a pattern that the
    verifier does not have."""
    if verifier == "regular_expression":
        return RegularExpression(pattern=pattern)
    if verifier == "reasoning_gym":
        return ReasoningGym(pattern=pattern)
    if pattern is not None:
        raise ValueError(f"pattern belongs to regular_expression and reasoning_gym; {verifier} has none")
    component: Component = _WITHOUT_SETTINGS[verifier]()  # type: ignore[call-arg, assignment]
    return component


_NEED_ANSWER = frozenset(
    {"exact_match", "last_step", "regular_expression", "numeric", "math_verify", "multiple_choice"}
)


def needs_answer(component: Component) -> bool:
    """Whether the component compares with the prompt's answer, which must not be empty then."""
    return component.verifier in _NEED_ANSWER or (isinstance(component, JsonSchema) and component.equal)


def check_reward(components: Sequence[ComponentSettings]) -> None:
    """Raises ValueError where two components have the same name."""
    twice = [name for name, number in Counter(one.label for one in components).items() if number > 1]
    if twice:
        raise ValueError(f"two components of the reward are called {twice[0]}: give each a name of its own")
