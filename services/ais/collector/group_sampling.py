"""One attempt at a group: its prompt to a replica, the responses judged."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ais.collector.episodes.answering import answers
from ais.collector.episodes.call import Call, Verify
from ais.collector.exercise import Exercise
from ais.collector.replicas.generation import Cause, GenerationClient, GenerationError
from ais.collector.settings import CollectorSettings
from ais.contracts.journey.times import Journey
from ais.contracts.limits import LONGEST_NAME
from ais.contracts.registry import ReplicaRecord
from ais.contracts.routing.routed import NOT_TOLD as NO_ROUTES
from ais.contracts.trajectory import TOKEN_DTYPE, ScoredGroup
from ais.contracts.truncation.kept import NOT_TOLD
from ais.runtime.settings import RunSettings
from ais.runtime.tracing.spans import current_traceparent


@dataclass
class Assignment:
    """A group on its way: who samples it, which attempt this is, and how many of its sequences are still to come."""

    ordinal: int
    attempt: int
    replica: ReplicaRecord
    awaited: int
    admitted_version: int
    """The trainer's version that allowed the ordinal to be started."""
    redraw: int = 0
    """Groups of the ordinal that were thrown away because their rewards were all equal."""
    unjudged: int = 0
    """Groups of the ordinal, since, with a response that could not be judged."""
    drawn: float = field(default_factory=time.time)
    """When the first group of the ordinal was started, Unix time in seconds."""
    sent: float = field(default_factory=time.time)
    """When this one was."""
    started: float = field(default_factory=time.monotonic)

    def group_id(self, run: str) -> str:
        """Name of the group, in the run and in every log."""
        return f"{run}-{self.ordinal}-{self.attempt}"


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

        Raises GenerationError, also where `verify` raises MalformedRecordError for responses that must not be used.
        Where a response cannot be judged, raises UnavailableError to end the run or UnjudgedError to have the group
        again.
        """
        group_id = assignment.group_id(self.run.name)
        prompt = self.exercise.prompt(assignment.ordinal, assignment.redraw)
        seed = group_seed(self.run.seed, assignment.ordinal, assignment.redraw, assignment.unjudged)
        call = Call(
            name=group_id,
            samples=self.run.samples_per_group,
            sampling=self.settings.sampling.model_copy(update={"seed": seed}),
            vocab_size=assignment.replica.vocab_size,
            deadline_seconds=self.settings.group_deadline_seconds,
            served=assignment.replica.policy_version,
            is_trained_on=True,
        )
        answered = assignment.sent

        def arrived() -> None:
            nonlocal answered
            answered = time.time()
            on_arrival()

        found = await answers(self.exercise, prompt, client, call, verify, arrived)
        if call.sampling.truncated and any(one.kept is None for one in found.trajectories):
            raise GenerationError("kept", NOT_TOLD, Cause.REFUSED, field="trajectory.kept")
        if self.run.routing_replay and any(one.routed is None for one in found.trajectories):
            raise GenerationError("routed", NO_ROUTES, Cause.REFUSED, field="trajectory.routed")
        return ScoredGroup(
            group_id=group_id,
            ordinal=assignment.ordinal,
            prompt_id=prompt.prompt_id[:LONGEST_NAME],
            prompt_token_ids=np.asarray(found.prompt_token_ids, dtype=TOKEN_DTYPE),
            trajectories=found.trajectories,
            rewards=found.judged.rewards,
            task=prompt.source,
            attempt=assignment.attempt,
            answer=prompt.answer,
            components=found.judged.components,
            redraw=assignment.redraw,
            journey=Journey(
                drawn=assignment.drawn,
                sent=assignment.sent,
                answered=answered,
                judged=time.time(),
                admitted_version=assignment.admitted_version,
                traceparent=current_traceparent(),
            ),
        )

    def is_redrawn(self, group: ScoredGroup) -> bool:
        """Whether another prompt takes the place of this group."""
        settings = self.settings.dynamic_sampling
        return group.redraw < settings.redraws and is_uniform(group, settings.component)


def is_uniform(group: ScoredGroup, component: str = "") -> bool:
    """Whether all rewards of a group are equal, or all scores of one component, parts of the same name included."""
    parts = [one.scores for one in group.components if f"{one.name}.".startswith(f"{component}.")]
    return all(len(set(scores)) == 1 for scores in (parts if component else [group.rewards]))


def group_seed(run_seed: int, ordinal: int, redraw: int = 0, unjudged: int = 0) -> int:
    """Seed of a group's random stream, below 2^63: unrelated for any two ordinals or runs, and for a group that takes
    the place of another."""
    place = f"{ordinal}" if redraw == unjudged == 0 else f"{ordinal}:{redraw}:{unjudged}"
    return random.Random(f"{run_seed}:sampling:{place}").getrandbits(63)
