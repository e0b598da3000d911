"""One attempt at a group: its prompt to a replica, the responses judged."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from ais.collector.exercise import Exercise
from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.collector.settings import CollectorSettings
from ais.contracts.limits import LONGEST_NAME
from ais.contracts.registry import ReplicaRecord
from ais.contracts.trajectory import TOKEN_DTYPE, MalformedRecordError, ScoredGroup, Trajectory, TrajectoryBounds
from ais.runtime.settings import RunSettings

Verify = Callable[[tuple[Trajectory, ...]], Awaitable[None]]


@dataclass
class Assignment:
    """A group on its way: who samples it, which attempt this is, and how many of its sequences are still to come."""

    ordinal: int
    attempt: int
    replica: ReplicaRecord
    awaited: int
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class GroupSampling:
    """What every attempt of a run has in common."""

    run: RunSettings
    settings: CollectorSettings
    exercise: Exercise

    async def sample(
        self, assignment: Assignment, client: GenerationClient, verify: Verify, on_arrival: Callable[[], object]
    ) -> ScoredGroup:
        """The scored group; `on_arrival` is called for each sequence as it comes.

        Raises GenerationError, also where `verify` raises MalformedRecordError for responses that must not be used, and
        UnavailableError where a response that cannot be judged ends the run.
        """
        group_id = f"{self.run.name}-{assignment.ordinal}-{assignment.attempt}"
        prompt, token_ids = self.exercise.ask(assignment.ordinal)
        trajectories = await client.generate(
            group_id,
            token_ids,
            self.run.samples_per_group,
            self.settings.sampling.model_copy(update={"seed": group_seed(self.run.seed, assignment.ordinal)}),
            TrajectoryBounds(vocab_size=assignment.replica.vocab_size),
            self.settings.group_deadline_seconds,
            on_arrival,
        )
        try:
            _check_age(trajectories, assignment.replica.policy_version)
            await verify(trajectories)
        except MalformedRecordError as error:
            raise GenerationError("malformed", str(error), field=error.field) from error
        rewards = await self.exercise.rewards(prompt, trajectories)
        return ScoredGroup(
            group_id=group_id,
            ordinal=assignment.ordinal,
            prompt_id=prompt.prompt_id[:LONGEST_NAME],
            prompt_token_ids=np.asarray(token_ids, dtype=TOKEN_DTYPE),
            trajectories=trajectories,
            rewards=rewards,
            task=prompt.source,
            attempt=assignment.attempt,
            answer=prompt.answer,
        )


def _check_age(trajectories: tuple[Trajectory, ...], served: int) -> None:
    """Raises MalformedRecordError where tokens were sampled by a version before the one that the replica `served`."""
    if (oldest := min(trajectory.oldest_version for trajectory in trajectories)) < served:
        raise MalformedRecordError("trajectory.spans.version", f"the replica served {served} already, got {oldest}")


def group_seed(run_seed: int, ordinal: int) -> int:
    """Seed of a group's random stream, below 2^63: unrelated for any two ordinals or runs."""
    return random.Random(f"{run_seed}:sampling:{ordinal}").getrandbits(63)
