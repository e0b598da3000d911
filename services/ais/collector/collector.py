"""The collector's loop: admitted prompts to replicas, responses to the verifier, scored groups to the queue."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from ais.collector.admission import Admission
from ais.collector.attempts import Attempts
from ais.collector.exercise import Exercise
from ais.collector.group_sampling import Assignment, GroupSampling
from ais.collector.judging.judge import UnjudgedError
from ais.collector.metrics import CollectorMetrics
from ais.collector.replicas.dispatch import Dispatcher
from ais.collector.replicas.fleet import Fleet, Links
from ais.collector.replicas.generation import Cause, GenerationError, response_bytes
from ais.collector.replicas.proof import Expected
from ais.collector.settings import CollectorSettings
from ais.collector.standstill import Standstill
from ais.collector.trainer_watch import TrainerChannel, TrainerWatch
from ais.contracts.limits import field_label
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.routing.shape import read_routing_shape
from ais.contracts.trajectory import ScoredGroup, encode_group
from ais.runtime.lag import watch_loop_lag
from ais.runtime.network.patience import persist
from ais.runtime.process import UnavailableError
from ais.runtime.security.keyring import NOBODY, Credential
from ais.runtime.settings import RunSettings
from ais.runtime.tasks import end_tasks
from ais.runtime.text import printable
from ais.runtime.tracing.correlation import about_group
from ais.runtime.tracing.spans import Span, span

LOOKS_PER_PATIENCE = 10
"""How often, while patience lasts, is looked whether anything has moved."""

logger = logging.getLogger(__name__)

_OUTCOMES = {
    Cause.FAILED: "failed",
    Cause.BUSY: "busy",
    Cause.REFUSED: "refused",
    Cause.LEAVING: "handed_back",
    Cause.SPREAD: "spread",
}


class Collector:
    """Runs until the trainer has finished or it is asked to stop. Single-threaded: all state belongs to one loop."""

    def __init__(
        self,
        run: RunSettings,
        settings: CollectorSettings,
        exercise: Exercise,
        trainer: TrainerChannel,
        registry: ReplicaRegistry,
        expected: Expected,
        metrics: CollectorMetrics,
        credential: Credential = NOBODY,
    ) -> None:
        """`credential`: what it presents to replicas."""
        self._run = run
        self._settings = settings
        self._sampling = GroupSampling(run, settings, exercise)
        self._queue: TrajectoryQueue = trainer.queue
        self._metrics = metrics
        self._admission = Admission(run.groups_per_batch, run.max_staleness, run.steps)
        self._changed = asyncio.Event()
        self._standstill = Standstill(settings.stall_seconds, time.monotonic())
        self._trainer = TrainerWatch(trainer, self._admission, run.groups_per_batch, metrics, self._standstill)
        self.verify = self._trainer.verify
        self.fleet = self._fleet = Fleet(
            registry,
            Links(run.use_proxy, response_bytes(settings.sampling, _routed_bytes(run, exercise.context)), credential),
            expected,
            self._trainer.announced,
            Dispatcher(settings.queue_factor),
            metrics,
            self._changed.set,
        )
        self._attempts = Attempts()
        self._groups: set[asyncio.Task[None]] = set()
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None
        self._last_failure = ""
        self._stalled: str | None = None

    def not_ready(self) -> str | None:
        """Why no work is being done, or None."""
        if self._admission.version < 0:
            return "waiting for the trainer to announce its policy"
        if not any(replica.ready for replica in self._fleet.replicas):
            return "no replica is ready"
        return self._stalled

    async def run(self, stop: asyncio.Event) -> None:
        """Raises UnavailableError when no replica can ever serve a prompt, or a group has failed too often."""
        watching = asyncio.create_task(self._watch_for_a_standstill(), name="watch for a standstill")
        watching.add_done_callback(self._on_done)
        try:
            if await self._caught_up(stop):
                await self._collect_all(stop)
        finally:
            await end_tasks(watching)

    async def _collect_all(self, stop: asyncio.Event) -> None:
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

    # Groups to replicas.

    async def _dispatch(self) -> None:
        """Gives every open group to a replica as soon as one may and can take it."""
        while True:
            while self._place_one():
                pass
            self._metrics.admits(self._admission)
            await self._changed.wait()
            self._changed.clear()

    def _place_one(self) -> bool:
        """Starts the open group that is needed first, or a later one while some replicas refuse that one's prompt."""
        for ordinal in self._admission.in_order():
            history = self._attempts[ordinal]
            replica = self._fleet.choose(
                self._run.samples_per_group,
                self._admission.required_version(ordinal),
                self._admission.version,
                avoid=history.failed_on,
                excluded=history.refused_by,
                waiting=self._admission.open * self._run.samples_per_group,
            )
            if replica is not None:
                self._start(ordinal, replica)
                return True
            if not history.refused_by:
                return False
        return False

    def _start(self, ordinal: int, replica: ReplicaRecord) -> None:
        self._admission.start(ordinal)
        history = self._attempts[ordinal]
        if history.failures >= self._settings.max_attempts:
            self._fail(
                f"the group of ordinal {ordinal} has come to nothing {history.failures} times "
                f"(collector.max_attempts); the last time: {self._last_failure or 'the trainer refused it'}"
            )
        history.attempts += 1
        history.begun = history.begun or time.time()
        samples = self._run.samples_per_group
        assignment = Assignment(
            ordinal=ordinal,
            attempt=history.attempts,
            replica=replica,
            awaited=samples,
            admitted_version=self._admission.required_version(ordinal),
            redraw=history.redraw,
            unjudged=history.unjudged,
            drawn=history.begun,
        )
        self._fleet.dispatcher.sent(replica.replica_id, assignment.awaited)
        task = asyncio.create_task(self._collect(assignment), name=replica.replica_id)
        self._groups.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._groups.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failure = error
            self._failed.set()

    async def _collect(self, assignment: Assignment) -> None:
        """One group from call to queue. A failed call opens the ordinal again; it is not an error of the collector."""
        group_id = assignment.group_id(self._run.name)
        about_group(group_id)
        with span(
            "group",
            group=group_id,
            ordinal=assignment.ordinal,
            attempt=assignment.attempt,
            replica=assignment.replica.replica_id,
            admitted_version=assignment.admitted_version,
        ) as whole:
            await self._collected(assignment, whole)

    async def _collected(self, assignment: Assignment, whole: Span) -> None:
        """`_collect` within the span of the group."""
        ordinal, replica = assignment.ordinal, assignment.replica
        logger.debug("a group is sent", extra={"replica": replica.replica_id})
        try:
            group = await self._sampling.sample(
                assignment, self._fleet.client(replica), self._trainer.verify, partial(self._on_arrival, assignment)
            )
        except GenerationError as error:
            whole.fail(_OUTCOMES[error.cause])
            self._on_failed_call(assignment, error)
            return
        except UnjudgedError as error:
            whole.fail("unjudged")
            self._on_unjudged(assignment, error)
            return
        self._fleet.dispatcher.succeeded(replica.replica_id)
        if self._sampling.is_redrawn(group):
            whole.tell(outcome="redrawn")
            self._redraw(group)
            return
        published = await self._publish(group)
        whole.tell(outcome="published" if published else "duplicate")
        logger.debug("a group is in the queue" if published else "a group's ordinal is in the queue already")
        self._admission.accept(ordinal)
        self._standstill.moved(time.monotonic())
        self._attempts[ordinal].published()
        self._metrics.groups.labels("published" if published else "duplicate").inc()
        self._metrics.group_seconds.observe(time.monotonic() - assignment.started)
        self._metrics.published(group)
        self._changed.set()

    def _redraw(self, group: ScoredGroup) -> None:
        """The ordinal is open again, for the next prompt of its reserve; by the same law of staleness."""
        history = self._attempts[group.ordinal]
        history.redraw += 1
        history.excused += 1
        history.failed_on = None
        self._admission.fail(group.ordinal)
        self._metrics.redrawn.inc()
        self._metrics.redrawn_sequences.inc(len(group.trajectories))
        self._metrics.redrawn_tokens.inc(sum(len(trajectory.token_ids) for trajectory in group.trajectories))
        self._standstill.moved(time.monotonic())
        self._changed.set()

    def _on_unjudged(self, assignment: Assignment, error: UnjudgedError) -> None:
        """The ordinal is open again, for other responses to its prompt. The replica has done its work, and what it was
        not asked for yet, in an episode that ended early, it owes no more."""
        name = assignment.replica.replica_id
        self._fleet.dispatcher.settled(name, assignment.awaited)
        self._fleet.dispatcher.succeeded(name)
        self._attempts[assignment.ordinal].unjudged += 1
        self._admission.fail(assignment.ordinal)
        self._metrics.groups.labels("unjudged").inc()
        self._last_failure = str(error)
        self._changed.set()

    def _on_arrival(self, assignment: Assignment) -> None:
        assignment.awaited -= 1
        self._standstill.moved(time.monotonic())
        self._fleet.dispatcher.settled(assignment.replica.replica_id)
        if self._fleet.dispatcher.has_room(assignment.replica, self._run.samples_per_group):
            self._changed.set()

    async def _publish(self, group: ScoredGroup) -> bool:
        """Keeps trying: what was sampled is not thrown away because Redis is away."""
        with span("publish", "producer"):
            return await persist(partial(self._queue.publish, group.ordinal, encode_group(group)), None)

    def _on_failed_call(self, assignment: Assignment, error: GenerationError) -> None:
        """The ordinal is open again. Whom the failure counts against depends on its cause."""
        ordinal, name, history = assignment.ordinal, assignment.replica.replica_id, self._attempts[assignment.ordinal]
        self._fleet.dispatcher.settled(name, assignment.awaited)
        history.failed_on = name
        history.excused += error.cause is not Cause.FAILED
        if error.cause is Cause.REFUSED:
            history.refused_by[name] = str(error)
        self._admission.fail(ordinal)
        self._metrics.groups.labels(_OUTCOMES[error.cause]).inc()
        extra = {"ordinal": ordinal, "attempt": assignment.attempt, "replica": name}
        if error.cause is Cause.LEAVING:
            self._fleet.dispatcher.handed_back(name)
            logger.info("a replica that leaves hands a group back", extra=extra)
        elif error.cause is Cause.SPREAD:
            history.failed_on = None
            logger.info("a group of episodes is started again: %s", error, extra=extra)
        else:
            self._fleet.dispatcher.failed(name, time.monotonic())
            self._metrics.failures.labels(error.reason).inc()
            if error.field:
                self._metrics.refused.labels(field_label(error.field)).inc()
            self._last_failure = f"{name}: {error}"
            logger.warning("a group is started again: %s", error, extra=extra | {"why": error.reason})
        self._changed.set()

    # When nothing moves.

    async def _watch_for_a_standstill(self) -> None:
        """Says what is waited for when nothing has moved for too long; ends the collector where that cannot change."""
        while True:
            await asyncio.sleep(self._settings.stall_seconds / LOOKS_PER_PATIENCE)
            now = time.monotonic()
            idle = self._standstill.idle_seconds(now)
            self._metrics.idle_seconds.set(idle)
            waiting_for, patience = self._waits_for()
            self._stalled = f"nothing has moved for {idle:.0f} s: {waiting_for}" if idle >= patience else None
            if not self._standstill.due(now, patience):
                continue
            if hopeless := self._hopeless():
                self._fail(hopeless)
            logger.warning("nothing has moved for %.0f s: %s", idle, waiting_for)
            if self._admission.version >= 0:
                await self._trainer.reopen_lost()
                self._changed.set()

    def _waits_for(self) -> tuple[str, float]:
        """What the next move depends on, and how long it may take, in seconds."""
        ordinal = self._admission.peek()
        if self._admission.version < 0:
            return "the trainer has not announced its policy", self._standstill.patience_seconds()
        if self._admission.running:
            calls = f"{self._admission.running} groups are being sampled and nothing comes back"
            last = f"; the last call that came to nothing: {self._last_failure}" if self._last_failure else ""
            return calls + last, self._standstill.patience_seconds(at_least=self._settings.group_deadline_seconds)
        if ordinal is not None:
            obstacles = self._fleet.obstacles(
                self._admission.required_version(ordinal), self._admission.version, self._attempts[ordinal].refused_by
            )
            return f"no replica can take the next group: {obstacles}", self._standstill.patience_seconds()
        held, version = len(self._admission.accepted), self._admission.version
        return (
            f"the queue holds {held} groups, and the trainer, at version {version}, trains none of them",
            self._standstill.patience_seconds(trainer=True),
        )

    def _hopeless(self) -> str | None:
        """Why the next group can never be sampled by the replicas there are; None if it may be."""
        ordinal = self._admission.peek()
        if ordinal is None or not self._fleet.all_refuse(refused_by := self._attempts[ordinal].refused_by):
            return None
        prompt = self._sampling.exercise.prompt(ordinal, self._attempts[ordinal].redraw)
        obstacles = self._fleet.obstacles(
            self._admission.required_version(ordinal), self._admission.version, refused_by
        )
        return f"no replica can ever serve prompt {printable(prompt.prompt_id, 200)}: {obstacles}"

    def _fail(self, message: str) -> None:
        self._failure = UnavailableError(message)
        self._failed.set()


def _routed_bytes(run: RunSettings, context: int | None) -> int:
    """Most that the routed experts of one response take. Raises SettingsError for a model of unknown routing."""
    return read_routing_shape(run.model).token_bytes * (context or 0) if run.routing_replay else 0
