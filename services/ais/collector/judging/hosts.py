"""Who runs the environment of an episode: a worker process, or the verifiers of the source for retries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ais.collector.environments.calls import Answer, EnvironmentFaultError, Reset, messages_in, step_in
from ais.collector.environments.protocol import PolicyTurn
from ais.collector.judging.judge import Judge, UnjudgedError, on_unjudged
from ais.collector.judging.judgement import Failure, Outcome
from ais.collector.judging.pool import JudgePool
from ais.collector.prompts.prompts import Messages, Prompt, Question
from ais.collector.rewards.response import Response
from ais.collector.settings.environments import EPISODE, EnvironmentSettings
from ais.contracts.reward_components import JudgementFailure, RewardComponent

Given = TypeVar("Given")
Read = TypeVar("Read")


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
        reply = await self.pool.call(self.settings.name, Reset(self.source, prompt))
        opening = _failing(_opening, reply, prompt)
        if isinstance(opening, Failure):
            on_unjudged(self.on_failure, self.settings.name, prompt, opening)
            raise UnjudgedError(f"no episode of prompt {prompt.prompt_id!r} begins: {opening.reason}")
        return opening

    async def answer(self, place: Place, prompt: Prompt, turn: PolicyTurn) -> Told:
        reply = await self.pool.call(self.settings.name, Answer(place.state, turn))
        told = _failing(_told, reply, place)
        if isinstance(told, Failure):
            on_unjudged(self.on_failure, self.settings.name, prompt, told)
            failure = JudgementFailure(0, told.outcome.value, told.reason)
            return Told(place, (), True, (RewardComponent(EPISODE, 1.0, (0.0,), (failure,)),))
        return told


def _opening(reply: Mapping[str, Any], prompt: Prompt) -> Opening:
    messages = None if reply["messages"] is None else tuple(messages_in(reply["messages"]))
    return Opening(Place(str(reply["state"])), messages or prompt.question, reply["tools"])


def _told(reply: Mapping[str, Any], place: Place) -> Told:
    step = step_in(reply)
    reward = place.reward + step.reward
    parts = (RewardComponent(EPISODE, 1.0, (reward,)),)
    return Told(Place(str(reply["state"]), reward), tuple(step.messages), step.done, parts)


def _failing(
    read: Callable[[Mapping[str, Any], Given], Read], reply: Mapping[str, Any] | Failure, given: Given
) -> Read | Failure:
    """What a worker's reply says, or why it says nothing."""
    if isinstance(reply, Failure):
        return reply
    try:
        return read(reply, given)
    except (EnvironmentFaultError, KeyError) as error:
        return Failure(Outcome.ERROR, f"the worker's reply is none of an environment: {error}")


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
