"""The collector's loop: admitted prompts to replicas, responses to the verifier, scored groups to the queue."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ais.collector.admission import Admission
from ais.collector.fleet import Fleet
from ais.collector.generation import GenerationError
from ais.collector.metrics import CollectorMetrics
from ais.collector.prompts.prompts import Prompt, TaskSource
from ais.collector.prompts.tokenizer import PolicyTokenizer
from ais.collector.settings import CollectorSettings
from ais.collector.tasks.verifiers import Verifier
from ais.contracts.events import (
    EVENTS_A_READ,
    Discarded,
    Event,
    Finished,
    Resumed,
    TrainerEvents,
    VersionPublished,
)
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.trajectory import TOKEN_DTYPE, ScoredGroup, Trajectory, TrajectoryBounds, encode_group
from ais.runtime.lag import watch_loop_lag
from ais.runtime.patience import persist
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.runtime.tasks import end_tasks

EVENT_BLOCK_SECONDS = 1.0
"""How long one read waits for the trainer's next event; bounds how long an end can take."""
STALL_SECONDS = 30.0
"""When nothing has been sampled for this long although groups are open, the log says what they wait for."""

logger = logging.getLogger(__name__)


@dataclass
class Assignment:
    """A group on its way: who samples it, which attempt this is, and how many of its sequences are still to come."""

    ordinal: int
    attempt: int
    replica: ReplicaRecord
    awaited: int
    started: float = field(default_factory=time.monotonic)


@dataclass
class History:
    """What became of an ordinal's groups so far."""

    attempts: int = 0
    """Groups started. Each has a name of its own, by this number."""
    handed_back: int = 0
    """Those that a replica gave back because it was about to leave."""
    failed_on: str | None = None
    """The replica on which the last one came to nothing."""

    @property
    def failures(self) -> int:
        """Groups that came to nothing, by failed calls or refusals of the trainer, when none is under way."""
        return self.attempts - self.handed_back


class Collector:
    """Runs until the trainer has finished or it is asked to stop. Single-threaded: all state belongs to one loop."""

    def __init__(
        self,
        run: RunSettings,
        settings: CollectorSettings,
        task: TaskSource,
        verifier: Verifier,
        tokenizer: PolicyTokenizer,
        queue: TrajectoryQueue,
        registry: ReplicaRegistry,
        events: TrainerEvents,
        metrics: CollectorMetrics,
    ) -> None:
        self._run = run
        self._settings = settings
        self._task = task
        self._verifier = verifier
        self._tokenizer = tokenizer
        self._queue = queue
        self._events = events
        self._metrics = metrics
        self._admission = Admission(run.groups_per_batch, run.max_staleness, run.steps)
        self._changed = asyncio.Event()
        self._fleet = Fleet(registry, settings.queue_factor, metrics, self._changed.set, run.use_proxy)
        self._histories: defaultdict[int, History] = defaultdict(History)
        self._finished = asyncio.Event()
        self._groups: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._idle_since: float | None = None

    def not_ready(self) -> str | None:
        """Why no work is being done, or None."""
        if self._admission.version < 0:
            return "waiting for the trainer to announce its policy"
        if not any(replica.ready for replica in self._fleet.replicas):
            return "no replica is ready"
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Raises UnavailableError when a prompt is refused by the replicas for good."""
        if not await self._caught_up(stop):
            return
        background = [
            asyncio.create_task(self._follow_trainer(), name="follow trainer"),
            asyncio.create_task(self._fleet.follow(), name="follow replicas"),
            asyncio.create_task(self._dispatch(), name="dispatch"),
            asyncio.create_task(watch_loop_lag(self._metrics.loop_lag), name="watch the loop"),
        ]
        endings = [asyncio.create_task(stop.wait()), asyncio.create_task(self._finished.wait())]
        try:
            await asyncio.wait([*background, *endings], return_when=asyncio.FIRST_COMPLETED)
        finally:
            groups = list(self._groups)
            await end_tasks(*background, *endings, *groups)
            await self._fleet.close()
        errors = [task.exception() for task in background if not task.cancelled()]
        if failure := self._failure or next(filter(None, errors), None):
            raise failure

    async def _caught_up(self, stop: asyncio.Event) -> bool:
        """False: asked to stop before the trainer was there, or while Redis was away."""
        catching_up, stopping = asyncio.create_task(self._catch_up()), asyncio.create_task(stop.wait())
        await asyncio.wait((catching_up, stopping), return_when=asyncio.FIRST_COMPLETED)
        await end_tasks(catching_up, stopping)
        if catching_up.cancelled():
            return False
        catching_up.result()
        return True

    async def _catch_up(self) -> None:
        """Replays the trainer's events and takes over what an earlier collector of this run has published."""
        version = -1
        behind = True
        while behind:
            events = await self._next_events()
            for event in events:
                match event:
                    case VersionPublished() | Resumed():
                        version = event.version
                        self._finished.clear()
                    case Finished():
                        version = event.version
                        self._finished.set()
            behind = version < 0 or len(events) == EVENTS_A_READ
        await self._resume(version)

    async def _resume(self, version: int) -> None:
        """Starts over from a trainer at `version`, with what the queue holds."""
        accepted = await persist(partial(self._queue.accepted, version * self._run.groups_per_batch), None)
        self._admission.resume(version, accepted)
        self._metrics.version.set(version)
        logger.info("starts", extra={"version": version, "already_published": len(accepted)})

    async def _follow_trainer(self) -> None:
        while True:
            for event in await self._next_events():
                match event:
                    case Resumed(version=version):
                        await self._resume(version)
                    case VersionPublished(version=version):
                        self._admission.advance(version)
                        self._metrics.version.set(version)
                        trained = version * self._run.groups_per_batch
                        for ordinal in [ordinal for ordinal in self._histories if ordinal < trained]:
                            del self._histories[ordinal]
                    case Discarded(ordinal=ordinal, reason=reason):
                        logger.warning("the trainer refused a group", extra={"ordinal": ordinal, "reason": reason})
                        self._admission.discard(ordinal)
                    case Finished():
                        self._finished.set()
                        return
            self._changed.set()

    async def _next_events(self) -> list[Event]:
        return await persist(partial(self._events.follow, EVENT_BLOCK_SECONDS), None)

    async def _dispatch(self) -> None:
        """Gives every open group to a replica as soon as one may and can take it."""
        while True:
            while (ordinal := self._admission.peek()) is not None:
                replica = self._fleet.choose(
                    self._run.samples_per_group,
                    self._admission.required_version(ordinal),
                    self._admission.version,
                    avoid=self._histories[ordinal].failed_on,
                )
                if replica is None:
                    break
                self._start(replica)
            self._metrics.running.set(self._admission.running)
            self._metrics.waiting.set(self._admission.open)
            self._warn_of_a_stall(time.monotonic())
            await self._changed.wait()
            self._changed.clear()

    def _warn_of_a_stall(self, now: float) -> None:
        ordinal = self._admission.peek()
        if ordinal is None or self._admission.running:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= STALL_SECONDS:
            self._idle_since = now
            serving = {replica.replica_id: replica.policy_version for replica in self._fleet.replicas if replica.ready}
            logger.warning(
                "no replica can take the next group: see the trainer's log for refused weight pushes",
                extra={"needs_version": self._admission.required_version(ordinal), "ready_replicas_serve": serving},
            )

    def _start(self, replica: ReplicaRecord) -> None:
        ordinal = self._admission.start()
        history = self._histories[ordinal]
        if history.failures >= self._settings.max_attempts:
            self._fail(
                f"the group of ordinal {ordinal} has come to nothing {history.failures} times "
                "(collector.max_attempts); the warnings above say why"
            )
        history.attempts += 1
        assignment = Assignment(ordinal, history.attempts, replica, awaited=self._run.samples_per_group)
        self._fleet.dispatcher.sent(replica.replica_id, assignment.awaited)
        task = asyncio.create_task(self._collect(assignment), name=replica.replica_id)
        self._groups.add(task)
        task.add_done_callback(self._on_group_done)

    def _on_group_done(self, task: asyncio.Task[None]) -> None:
        self._groups.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failure = error
            self._finished.set()

    async def _collect(self, assignment: Assignment) -> None:
        """One group from call to queue. A failed call opens the ordinal again; it is not an error of the collector."""
        ordinal, replica = assignment.ordinal, assignment.replica
        prompt = self._task.prompt(ordinal)
        try:
            group = await self._generate(assignment, prompt)
        except GenerationError as error:
            self._fleet.dispatcher.settled(replica.replica_id, assignment.awaited)
            self._histories[ordinal].failed_on = replica.replica_id
            self._admission.fail(ordinal)
            if error.handed_back:
                self._on_handed_back(assignment)
            else:
                self._on_failed_call(assignment, prompt, error)
            self._changed.set()
            return
        self._fleet.dispatcher.succeeded(replica.replica_id)
        published = await self._publish(group)
        self._admission.accept(ordinal)
        self._histories[ordinal].failed_on = None
        self._metrics.groups.labels("published" if published else "duplicate").inc()
        self._metrics.group_seconds.observe(time.monotonic() - assignment.started)
        self._metrics.reward.set(sum(group.rewards) / len(group.rewards))
        self._metrics.tokens.inc(sum(len(trajectory.token_ids) for trajectory in group.trajectories))
        self._changed.set()

    async def _generate(self, assignment: Assignment, prompt: Prompt) -> ScoredGroup:
        group_id = f"{self._run.name}-{assignment.ordinal}-{assignment.attempt}"
        token_ids = self._tokenizer.encode_prompt(prompt.text)
        trajectories = await self._fleet.client(assignment.replica).generate(
            group_id,
            token_ids,
            self._run.samples_per_group,
            self._settings.sampling.model_copy(update={"seed": group_seed(self._run.seed, assignment.ordinal)}),
            TrajectoryBounds(vocab_size=assignment.replica.vocab_size),
            self._settings.group_deadline_seconds,
            partial(self._on_arrival, assignment),
        )
        return ScoredGroup(
            group_id=group_id,
            ordinal=assignment.ordinal,
            prompt_id=prompt.prompt_id,
            prompt_token_ids=_as_tokens(token_ids),
            trajectories=trajectories,
            rewards=tuple(self._reward(trajectory, prompt) for trajectory in trajectories),
            task=self._task.name,
            attempt=assignment.attempt,
        )

    def _reward(self, trajectory: Trajectory, prompt: Prompt) -> float:
        text = self._tokenizer.decode_response(trajectory.token_ids.tolist())
        return self._verifier(text, prompt, trajectory.finish_reason)

    def _on_arrival(self, assignment: Assignment) -> None:
        assignment.awaited -= 1
        self._fleet.dispatcher.settled(assignment.replica.replica_id)
        if self._fleet.dispatcher.has_room(assignment.replica, self._run.samples_per_group):
            self._changed.set()

    async def _publish(self, group: ScoredGroup) -> bool:
        """Keeps trying: what was sampled is not thrown away because Redis is away."""
        return await persist(partial(self._queue.publish, group.ordinal, encode_group(group)), None)

    def _on_handed_back(self, assignment: Assignment) -> None:
        """A replica leaves: neither it nor the group has failed."""
        ordinal, replica = assignment.ordinal, assignment.replica
        self._fleet.dispatcher.handed_back(replica.replica_id)
        self._histories[ordinal].handed_back += 1
        self._metrics.groups.labels("handed_back").inc()
        logger.info(
            "a replica that leaves hands a group back",
            extra={"ordinal": ordinal, "attempt": assignment.attempt, "replica": replica.replica_id},
        )

    def _on_failed_call(self, assignment: Assignment, prompt: Prompt, error: GenerationError) -> None:
        ordinal, replica = assignment.ordinal, assignment.replica
        self._fleet.dispatcher.failed(replica.replica_id, time.monotonic())
        self._metrics.groups.labels("failed").inc()
        self._metrics.failures.labels(error.reason).inc()
        if error.field:
            self._metrics.refused.labels(error.field).inc()
        logger.warning(
            "a group is started again: %s",
            error,
            extra={
                "ordinal": ordinal,
                "attempt": assignment.attempt,
                "replica": replica.replica_id,
                "why": error.reason,
            },
        )
        if error.permanent:
            self._fail(f"the replicas refuse prompt {prompt.prompt_id!r} for good: {error}")

    def _fail(self, message: str) -> None:
        self._failure = UnavailableError(message)
        self._finished.set()


def group_seed(run_seed: int, ordinal: int) -> int:
    """Seed of a group's random stream, below 2^63: unrelated for any two ordinals or runs."""
    return random.Random(f"{run_seed}:sampling:{ordinal}").getrandbits(63)


def _as_tokens(token_ids: list[int]) -> np.ndarray:
    return np.asarray(token_ids, dtype=TOKEN_DTYPE)
