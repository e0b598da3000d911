"""Who runs the environment of an episode: a worker process, or the verifiers of the source for retries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ais.collector.environments.calls import Answer, EnvironmentFaultError, Reset, messages_in, step_in, tools_in
from ais.collector.environments.protocol import PolicyTurn
from ais.collector.judging.judge import Judge, UnjudgedError, on_unjudged
from ais.collector.judging.judgement import Failure
from ais.collector.judging.pool import JudgePool
from ais.collector.prompts.prompts import Messages, Prompt, Question
from ais.collector.rewards.response import Response
from ais.collector.settings.environments import EPISODE, EnvironmentSettings
from ais.collector.settings.rewards import LARGEST_SCORE
from ais.contracts.reward_components import JudgementFailure, RewardComponent


@dataclass(frozen=True)
class Place:
    """Where an episode stands: what its environment needs to go on, and what it is worth so far."""

    state: str = ""
    reward: float = 0.0


@dataclass(frozen=True)
class Opening:
    """How the episodes of a group begin: all alike."""

    place: Place
    question: Question
    """What the policy is asked."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Tool schemas for the chat template."""


@dataclass(frozen=True)
class Told:
    """The answer to a turn."""

    place: Place
    messages: Messages
    done: bool
    parts: tuple[RewardComponent, ...]
    """What the episode's reward is made of if it ends here, each with one score."""
    failed: bool = False
    """Whether the environment gave no answer, which ends the episode."""


class Host(Protocol):
    """Runs an environment."""

    @property
    def settings(self) -> EnvironmentSettings: ...

    async def begin(self, prompt: Prompt) -> Opening:
        """Where it does not begin, raises UnjudgedError to have the group again, or UnavailableError to end the run."""
        ...

    async def answer(self, place: Place, prompt: Prompt, turn: PolicyTurn) -> Told:
        """The answer to a turn. Raises as a Judge does."""
        ...


@dataclass(frozen=True)
class WorkerHost:
    """Runs it in the worker processes that judge."""

    source: str
    settings: EnvironmentSettings
    pool: JudgePool
    on_failure: str

    async def begin(self, prompt: Prompt) -> Opening:
        opening = await self.pool.call(Reset(self.source, prompt), partial(_opening, prompt.question))
        if isinstance(opening, Failure):
            on_unjudged(self.on_failure, self.settings.name, prompt, opening)
            raise UnjudgedError(f"no episode of prompt {prompt.prompt_id!r} begins: {opening.reason}")
        return opening

    async def answer(self, place: Place, prompt: Prompt, turn: PolicyTurn) -> Told:
        told = await self.pool.call(Answer(place.state, turn), partial(_told, place.reward))
        if isinstance(told, Failure):
            on_unjudged(self.on_failure, self.settings.name, prompt, told)
            failure = JudgementFailure(0, told.outcome.value, told.reason)
            return Told(place, (), True, (RewardComponent(EPISODE, 1.0, (0.0,), (failure,)),), failed=True)
        return told


def _opening(question: Question, reply: Mapping[str, Any]) -> Opening:
    messages = None if reply["messages"] is None else tuple(messages_in(reply["messages"]))
    return Opening(Place(str(reply["state"])), messages or question, tools_in(reply["tools"]))


def _told(reward: float, reply: Mapping[str, Any]) -> Told:
    """`reward`: of the steps before this one."""
    step = step_in(reply)
    reward += step.reward
    if abs(reward) > LARGEST_SCORE:
        raise EnvironmentFaultError(f"expected an episode's rewards to sum to within +-{LARGEST_SCORE:g}")
    parts = (RewardComponent(EPISODE, 1.0, (reward,)),)
    return Told(Place(str(reply["state"]), reward), tuple(step.messages), step.done, parts)


@dataclass(frozen=True)
class RetryHost:
    """Has each turn judged as a response, and asks again while it is not worth enough."""

    settings: EnvironmentSettings
    judge: Judge

    async def begin(self, prompt: Prompt) -> Opening:
        return Opening(Place(), prompt.question)

    async def answer(self, place: Place, prompt: Prompt, turn: PolicyTurn) -> Told:
        response = Response(turn.text, turn.finish_reason, turn.tokens, turn.most_tokens)
        judged = await self.judge.judge(prompt, [response])
        feedback = ({"role": "user", "content": self.settings.feedback},)
        return Told(place, feedback, judged.rewards[0] >= self.settings.enough, judged.components)
