"""A group of episodes: the policy and an environment take turns, until that is over or a budget is used up.

All turns of a group are sampled by one replica. It has their prefixes, its versions never go back, and where it is lost
the group starts again elsewhere, as a group of single responses does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ais.collector.environments.protocol import PolicyTurn
from ais.collector.episodes.call import Answers, Call
from ais.collector.episodes.joining import SampledTurn, joined
from ais.collector.exercise import Ending, Exercise
from ais.collector.judging.hosts import Host, Opening
from ais.collector.judging.judge import Judged, UnjudgedError, weighted_sums
from ais.collector.prompts.dialogue import Dialogue
from ais.collector.prompts.prompts import Prompt
from ais.collector.replicas.generation import Cause, GenerationClient, GenerationError
from ais.collector.settings.environments import TURNS
from ais.contracts.reward_components import JudgementFailure, RewardComponent
from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import Trajectory, TrajectoryBounds
from ais.runtime.process import UnavailableError
from ais.runtime.tasks import end_tasks

Value = TypeVar("Value")


@dataclass(frozen=True)
class Episode:
    """One that has ended."""

    trajectory: Trajectory
    parts: tuple[RewardComponent, ...]
    """Each with one score."""


async def play(
    exercise: Exercise,
    host: Host,
    prompt: Prompt,
    client: GenerationClient,
    call: Call,
    on_arrival: Callable[[], object] = lambda: None,
) -> Answers:
    """All episodes of a group; `on_arrival` is called for each that ends.

    Raises GenerationError, UnjudgedError and UnavailableError; the first that goes wrong ends all.
    """
    begun = time.monotonic()
    with client.held():
        opening = await _by_the_deadline(host.begin(prompt), begun, call)
        dialogue = Dialogue(exercise.tokenizer, opening.question, opening.tools)
        game = _Game(exercise, host, prompt, client, call, opening, dialogue, dialogue.prompt(), begun)
        tasks = [asyncio.create_task(game.episode(index, on_arrival)) for index in range(call.samples)]
        try:
            episodes = await asyncio.gather(*tasks)
        finally:
            await end_tasks(*tasks)
    parts = together([episode.parts for episode in episodes])
    turns = tuple(float(len(episode.trajectory.turns)) for episode in episodes)
    parts = (*parts, RewardComponent(TURNS, 0.0, turns))
    judged = Judged(weighted_sums(parts, len(episodes)), parts)
    return Answers(game.prompt_token_ids, tuple(episode.trajectory for episode in episodes), judged)


@dataclass(frozen=True)
class _Game:
    """What the episodes of a group have in common."""

    exercise: Exercise
    host: Host
    prompt: Prompt
    client: GenerationClient
    call: Call
    opening: Opening
    dialogue: Dialogue
    prompt_token_ids: list[int]
    begun: float
    """Monotonic seconds."""

    async def episode(self, index: int, on_arrival: Callable[[], object]) -> Episode:
        place, dialogue = self.opening.place, self.dialogue
        tokens, context, turns = list(self.prompt_token_ids), list[int](), list[SampledTurn]()
        while True:
            response = await self._sampled(index, len(turns), [*tokens, *context])
            turns.append(SampledTurn(context, response))
            self._check_versions(turns)
            tokens += [*context, *response.token_ids.tolist()]
            ending = self._budget_used(len(turns), len(tokens))
            turn = self._said(response, len(turns) - 1, ending)
            told = await _by_the_deadline(self.host.answer(place, self.prompt, turn), self.begun, self.call)
            place = told.place
            if told.done:
                ending = "failed" if told.failed else "done"
            elif ending is None:
                dialogue = dialogue.after(told.messages)
                context = self._context_of(dialogue, response)
                ending = "context" if self._is_full(len(tokens) + len(context)) else None
            if ending is not None:
                trajectory = joined(turns, self.call.name, index, self.host.settings.turns)
                self.exercise.observe_episode(ending, len(turns), trajectory.version_span)
                on_arrival()
                return Episode(trajectory, told.parts)

    def _context_of(self, dialogue: Dialogue, response: Trajectory) -> list[int]:
        """What is read before the next turn. Raises UnjudgedError for messages that cannot be written in tokens."""
        stopped = response.finish_reason is FinishReason.STOP
        try:
            return dialogue.tokens_before_next_turn(int(response.token_ids[-1]) if stopped else None)
        except UnavailableError as error:
            raise UnjudgedError(
                f"what the environment of prompt {self.prompt.prompt_id!r} says cannot be written in tokens: {error}"
            ) from error

    async def _sampled(self, index: int, number: int, tokens: Sequence[int]) -> Trajectory:
        left = _seconds_left(self.begun, self.call)
        if left <= 0:
            raise _late()
        assert self.call.sampling.seed is not None
        seed = turn_seed(self.call.sampling.seed, index, number)
        (response,) = await self.client.generate(
            f"{self.call.name}.{index}.{number}",
            tokens,
            1,
            self.call.sampling.model_copy(update={"seed": seed}),
            TrajectoryBounds(vocab_size=self.call.vocab_size),
            left,
        )
        return response

    def _said(self, response: Trajectory, number: int, ending: Ending | None) -> PolicyTurn:
        said = self.exercise.response(response)
        left = 0 if ending is not None else self.host.settings.turns - number - 1
        return PolicyTurn(said.text, said.finish_reason, number, left, said.tokens, said.most_tokens)

    def _budget_used(self, turns: int, tokens: int) -> Ending | None:
        """Why no other turn may be asked for, once there are so many turns and tokens, prompt included."""
        budget = self.host.settings
        if turns >= budget.turns:
            return "turns"
        if budget.tokens and tokens - len(self.prompt_token_ids) >= budget.tokens:
            return "tokens"
        if budget.seconds is not None and time.monotonic() - self.begun >= budget.seconds:
            return "seconds"
        return "context" if self._is_full(tokens) else None

    def _is_full(self, tokens: int) -> bool:
        return self.exercise.context is not None and tokens >= self.exercise.context

    def _check_versions(self, turns: Sequence[SampledTurn]) -> None:
        """Raises GenerationError where the versions are too far apart for the episode to go on."""
        most = self.host.settings.max_versions_apart
        if most is None or not self.call.keeps_versions_together:
            return
        versions = [span.version for turn in turns for span in turn.response.spans]
        if (apart := max(versions) - min(versions)) > most:
            raise GenerationError(
                "spread", f"an episode spans {apart} versions, environment.max_versions_apart is {most}", Cause.SPREAD
            )


def _seconds_left(begun: float, call: Call) -> float:
    return call.deadline_seconds - (time.monotonic() - begun)


def _late() -> GenerationError:
    return GenerationError("deadline_exceeded", "the episodes were not over by the deadline", Cause.BUSY)


async def _by_the_deadline(work: Awaitable[Value], begun: float, call: Call) -> Value:
    """What the environment gives. Raises GenerationError where the group's deadline comes first."""
    try:
        async with asyncio.timeout(max(0.0, _seconds_left(begun, call))):
            return await work
    except TimeoutError:
        raise _late() from None


def together(episodes: Sequence[Sequence[RewardComponent]]) -> tuple[RewardComponent, ...]:
    """The components of a group from those of its episodes, each with one score, 0 where an episode lacks it. Pure."""
    kinds = dict.fromkeys((part.name, part.weight) for parts in episodes for part in parts)
    found = []
    for name, weight in kinds:
        mine = [next((part for part in parts if part.name == name), None) for parts in episodes]
        found.append(
            RewardComponent(
                name,
                weight,
                tuple(0.0 if part is None else part.scores[0] for part in mine),
                tuple(
                    JudgementFailure(index, failure.outcome, failure.text)
                    for index, part in enumerate(mine)
                    if part is not None
                    for failure in part.failures
                ),
            )
        )
    return tuple(found)


def turn_seed(group_seed: int, sample_index: int, turn: int) -> int:
    """Seed of one turn's random stream, below 2^63: unrelated for any two turns of a group."""
    return random.Random(f"{group_seed}:turn:{sample_index}:{turn}").getrandbits(63)
