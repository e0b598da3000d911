"""Who turns the responses of a group into rewards.

Each component of the reward judges each response, in one of three places: this process, where that is quick for
certain; a pool of worker processes that can be stopped; or a service elsewhere. The reward is the weighted sum.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ais.collector.judging.judgement import Failure, Judgement, Observe, Outcome, judgement_of, unobserved
from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.response import Response, Verifier
from ais.collector.settings.rewards import Component
from ais.contracts.reward_components import JudgementFailure, RewardComponent
from ais.runtime.process import UnavailableError

logger = logging.getLogger(__name__)


class UnjudgedError(Exception):
    """A response cannot be judged, and the settings want its group again for that."""


@dataclass(frozen=True)
class Judged:
    """What a group's responses are worth. Each reward is the sum over the components of weight times score."""

    rewards: tuple[float, ...]
    components: tuple[RewardComponent, ...]


class Judge(Protocol):
    """Gives rewards."""

    async def judge(self, prompt: Prompt, responses: Sequence[Response]) -> Judged:
        """A finite reward for each response to `prompt`, in their order.

        Where a response cannot be judged and the settings say so, raises UnavailableError to end the run, or
        UnjudgedError to have the group again.
        """
        ...


JudgeComponent = Callable[[Prompt, Sequence[Response]], Awaitable[list[Judgement]]]
"""Judges each response to a prompt by one component, in their order."""


@dataclass(frozen=True)
class Panel:
    """Has every component judge, and adds up."""

    components: Mapping[str, Sequence[tuple[Component, JudgeComponent]]]
    """By source of the prompt."""
    on_failure: str

    async def judge(self, prompt: Prompt, responses: Sequence[Response]) -> Judged:
        components = self._components_of(prompt)
        judgements = await asyncio.gather(*(judge(prompt, responses) for _, judge in components))
        parts = []
        for (component, _), judged in zip(components, judgements, strict=True):
            for judgement in judged:
                if isinstance(judgement, Failure):
                    on_unjudged(self.on_failure, component.label, prompt, judgement)
            parts += parts_of(component, judged)
        return Judged(weighted_sums(parts, len(responses)), tuple(parts))

    def _components_of(self, prompt: Prompt) -> Sequence[tuple[Component, JudgeComponent]]:
        """A single source judges every prompt."""
        return next(iter(self.components.values())) if len(self.components) == 1 else self.components[prompt.source]


def on_unjudged(on_failure: str, name: str, prompt: Prompt, failure: Failure) -> None:
    """What a response is worth is not known: raises what the settings ask for, or says so and lets it be 0."""
    what = f"a response to prompt {prompt.prompt_id!r} cannot be judged by {name}: {failure.reason}"
    if on_failure == "end":
        raise UnavailableError(f"{what} (collector.judging.on_failure)")
    logger.warning(
        "a response cannot be judged: %s",
        failure.reason,
        extra={"prompt": prompt.prompt_id, "component": name, "outcome": failure.outcome.value},
    )
    if on_failure == "again":
        raise UnjudgedError(what)


def parts_of(component: Component, judgements: Sequence[Judgement]) -> list[RewardComponent]:
    """The named parts of a component: itself, or `component.part` for each name that its verifier gave. Pure.

    A part that a response was not given is 0 for it; failures stand with the first part.
    """
    names = list(dict.fromkeys(name for one in judgements if not isinstance(one, Failure) for name in one)) or [""]
    failures = tuple(
        JudgementFailure(index, one.outcome.value, one.reason)
        for index, one in enumerate(judgements)
        if isinstance(one, Failure)
    )
    return [
        RewardComponent(
            name=f"{component.label}.{name}" if name else component.label,
            weight=component.weight,
            scores=tuple(0.0 if isinstance(one, Failure) else one.get(name, 0.0) for one in judgements),
            failures=failures if name == names[0] else (),
        )
        for name in names
    ]


def weighted_sums(parts: Sequence[RewardComponent], responses: int) -> tuple[float, ...]:
    """The reward of each response. Pure."""
    return tuple(sum(part.weight * part.scores[index] for part in parts) for index in range(responses))


def judge_here(name: str, verifier: Verifier, observe: Observe = unobserved) -> JudgeComponent:
    """Judges in this process, which stands still meanwhile. Only failures are told to `observe`."""

    def judgement(prompt: Prompt, response: Response) -> Judgement:
        began = time.monotonic()
        try:
            found = judgement_of(verifier(response, prompt))
        except Exception as error:  # such as a prompt whose answer is not of the verifier's kind
            found = Failure(Outcome.ERROR, f"{type(error).__name__}: {error}")
        if isinstance(found, Failure):
            observe(name, found.outcome, time.monotonic() - began)
        return found

    async def judge(prompt: Prompt, responses: Sequence[Response]) -> list[Judgement]:
        return [judgement(prompt, response) for response in responses]

    return judge
