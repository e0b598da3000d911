"""The collector's loop: admitted prompts to replicas, responses to the verifier, scored groups to the queue."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from ais.collector.admission import Admission
from ais.collector.attempts import Attempts
from ais.collector.exercise import Exercise
from ais.collector.fleet import Fleet
from ais.collector.generation import GenerationError
from ais.collector.group_sampling import Assignment, GroupSampling
from ais.collector.metrics import CollectorMetrics
from ais.collector.settings import CollectorSettings
from ais.collector.trainer_watch import TrainerChannel, TrainerWatch
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.trajectory import ScoredGroup, encode_group
from ais.runtime.lag import watch_loop_lag
from ais.runtime.patience import persist
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.runtime.tasks import end_tasks

STALL_SECONDS = 30.0
"""When nothing has been sampled for this long although groups are open, the log says what they wait for."""

logger = logging.getLogger(__name__)


class Collector:
    """Runs until the trainer has finished or it is asked to stop. Single-threaded: all state belongs to one loop."""

    def __init__(
        self,
        run: RunSettings,
        settings: CollectorSettings,
        exercise: Exercise,
        trainer: TrainerChannel,
        registry: ReplicaRegistry,
        metrics: CollectorMetrics,
    ) -> None:
        self._run = run
        self._settings = settings
        self._sampling = GroupSampling(run, settings, exercise)
        self._queue: TrajectoryQueue = trainer.queue
        self._metrics = metrics
        self._admission = Admission(run.groups_per_batch, run.max_staleness, run.steps)
        self._changed = asyncio.Event()
        self._fleet = Fleet(registry, settings.queue_factor, metrics, self._changed.set, run.use_proxy)
        self._trainer = TrainerWatch(trainer, self._admission, run.groups_per_batch, metrics)
        self._attempts = Attempts()
        self._groups: set[asyncio.Task[None]] = set()
        self._failed = asyncio.Event()
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
            asyncio.create_task(self._trainer.follow(self._on_trainer_news), name="follow trainer"),
            asyncio.create_task(self._fleet.follow(), name="follow replicas"),
            asyncio.create_task(self._dispatch(), name="dispatch"),
            asyncio.create_task(watch_loop_lag(self._metrics.loop_lag), name="watch the loop"),
        ]
        endings = [asyncio.create_task(event.wait()) for event in (stop, self._failed)]
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
        catching_up, stopping = asyncio.create_task(self._trainer.catch_up()), asyncio.create_task(stop.wait())
        await asyncio.wait((catching_up, stopping), return_when=asyncio.FIRST_COMPLETED)
        await end_tasks(catching_up, stopping)
        if catching_up.cancelled():
            return False
        catching_up.result()
        return True

    def _on_trainer_news(self, first_untrained: int) -> None:
        self._attempts.forget_below(first_untrained)
        self._changed.set()

    async def _dispatch(self) -> None:
        """Gives every open group to a replica as soon as one may and can take it."""
        while True:
            while (ordinal := self._admission.peek()) is not None:
                replica = self._fleet.choose(
                    self._run.samples_per_group,
                    self._admission.required_version(ordinal),
                    self._admission.version,
                    avoid=self._attempts[ordinal].failed_on,
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
        history = self._attempts[ordinal]
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
            self._failed.set()

    async def _collect(self, assignment: Assignment) -> None:
        """One group from call to queue. A failed call opens the ordinal again; it is not an error of the collector."""
        ordinal, replica = assignment.ordinal, assignment.replica
        try:
            group = await self._sampling.sample(
                assignment, self._fleet.client(replica), partial(self._on_arrival, assignment)
            )
        except GenerationError as error:
            self._fleet.dispatcher.settled(replica.replica_id, assignment.awaited)
            self._attempts[ordinal].failed_on = replica.replica_id
            self._admission.fail(ordinal)
            if error.handed_back:
                self._on_handed_back(assignment)
            else:
                self._on_failed_call(assignment, error)
            self._changed.set()
            return
        self._fleet.dispatcher.succeeded(replica.replica_id)
        published = await self._publish(group)
        self._admission.accept(ordinal)
        self._attempts[ordinal].failed_on = None
        self._metrics.groups.labels("published" if published else "duplicate").inc()
        self._metrics.group_seconds.observe(time.monotonic() - assignment.started)
        self._metrics.reward.set(sum(group.rewards) / len(group.rewards))
        self._metrics.tokens.inc(sum(len(trajectory.token_ids) for trajectory in group.trajectories))
        self._changed.set()

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
        self._attempts[ordinal].handed_back += 1
        self._metrics.groups.labels("handed_back").inc()
        logger.info(
            "a replica that leaves hands a group back",
            extra={"ordinal": ordinal, "attempt": assignment.attempt, "replica": replica.replica_id},
        )

    def _on_failed_call(self, assignment: Assignment, error: GenerationError) -> None:
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
            prompt = self._sampling.exercise.task.prompt(ordinal)
            self._fail(f"the replicas refuse prompt {prompt.prompt_id!r} for good: {error}")

    def _fail(self, message: str) -> None:
        self._failure = UnavailableError(message)
        self._failed.set()
