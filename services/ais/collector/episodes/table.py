"""What the episodes of a group have in common: how a turn is sampled, and what allows no other one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ais.collector.episodes.call import Call
from ais.collector.episodes.joining import SampledTurn, joined
from ais.collector.exercise import Ending, Exercise
from ais.collector.prompts.dialogue import Dialogue
from ais.collector.prompts.prompts import Prompt, Question
from ais.collector.prompts.tokenizer import Tools
from ais.collector.replicas.generation import Cause, GenerationClient, GenerationError
from ais.collector.replicas.progress import SampledTokens
from ais.collector.settings.environments import EnvironmentSettings
from ais.contracts.trajectory import Trajectory, TrajectoryBounds

Value = TypeVar("Value")


@dataclass(frozen=True)
class Table:
    """A group's episodes are played at one, with one replica."""

    exercise: Exercise
    settings: EnvironmentSettings
    prompt: Prompt
    client: GenerationClient
    call: Call
    begun: float = field(default_factory=time.monotonic)

    def dialogue(self, question: Question, tools: Tools = None) -> Dialogue:
        """The conversation that begins so."""
        return Dialogue(
            self.exercise.tokenizer,
            question,
            tools,
            may_begin_anew=self.settings.unstable_template == "begin_anew",
            looks_into_turns=self.prompt.source in self.exercise.unstable,
        )

    @property
    def seconds_left(self) -> float:
        """Until the group's deadline."""
        return self.call.deadline_seconds - (time.monotonic() - self.begun)

    async def by_the_deadline(self, work: Awaitable[Value]) -> Value:
        """What `work` gives. Raises GenerationError where the group's deadline comes first."""
        try:
            async with asyncio.timeout(max(0.0, self.seconds_left)):
                return await work
        except TimeoutError:
            raise deadline_exceeded() from None

    async def sampled(
        self,
        index: int,
        number: int,
        tokens: Sequence[int],
        most_tokens: int,
        on_sampled: Callable[[SampledTokens], object] | None = None,
    ) -> Trajectory:
        """The turn of that `number` of episode `index`, after `tokens`; `on_sampled` is told its tokens as they are
        sampled. Raises GenerationError."""
        if (left := self.seconds_left) <= 0:
            raise deadline_exceeded()
        assert self.call.sampling.seed is not None
        seed = turn_seed(self.call.sampling.seed, index, number)
        name, trained = f"{self.call.name}.{index}.{number}", self.call.is_trained_on
        sampling = self.call.sampling.model_copy(update={"seed": seed, "max_new_tokens": most_tokens})
        bounds = TrajectoryBounds(vocab_size=self.call.vocab_size)
        if on_sampled is not None:
            return await self.client.stream(name, tokens, sampling, bounds, left, on_sampled, for_training=trained)
        (response,) = await self.client.generate(name, tokens, 1, sampling, bounds, left, for_training=trained)
        return response

    def budget_used(self, turns: int, added: int, tokens: int) -> Ending | None:
        """Why no other turn may be asked for, once there are so many turns, the sequence so far has so many `tokens`,
        and `added` ones were read or sampled after the prompt, those read again included."""
        if turns >= self.settings.turns:
            return "turns"
        if self.settings.tokens and added >= self.settings.tokens:
            return "tokens"
        return "context" if self.is_full(tokens) else None

    def time_used(self) -> Ending | None:
        """Why no other turn may be asked for, after so much time."""
        used = self.settings.seconds is not None and time.monotonic() - self.begun >= self.settings.seconds
        return "seconds" if used else None

    def is_full(self, tokens: int) -> bool:
        """Whether so many tokens leave the replicas no room for an answer."""
        return self.exercise.context is not None and tokens >= self.exercise.context

    def check_versions(self, turns: Sequence[SampledTurn]) -> None:
        """Raises GenerationError where the versions are too far apart for the episode to go on."""
        most = self.settings.max_versions_apart
        if most is None or not self.call.is_trained_on:
            return
        versions = [span.version for turn in turns for span in turn.response.spans]
        if (apart := max(versions) - min(versions)) > most:
            raise GenerationError(
                "spread", f"an episode spans {apart} versions, environment.max_versions_apart is {most}", Cause.SPREAD
            )

    def ended(self, index: int, turns: Sequence[SampledTurn], ending: Ending) -> Trajectory:
        """The trajectory of an episode. Raises MalformedRecordError."""
        trajectory = joined(turns, self.call.name, index, self.settings.turns)
        self.exercise.observe_episode(ending, len(turns), trajectory.version_span)
        return trajectory


def deadline_exceeded() -> GenerationError:
    """The group starts again."""
    return GenerationError("deadline_exceeded", "the episodes were not over by the deadline", Cause.BUSY)


def turn_seed(group_seed: int, sample_index: int, turn: int) -> int:
    """Seed of one turn's random stream, below 2^63: unrelated for any two turns of a group."""
    return random.Random(f"{group_seed}:turn:{sample_index}:{turn}").getrandbits(63)
