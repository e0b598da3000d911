"""The collector's loop: admitted prompts to replicas, responses to the verifier, scored groups to the queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass, field

import numpy as np
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, wait_random_exponential

from services.collector.admission import Admission
from services.collector.dispatch import Dispatcher
from services.collector.generation import GenerationClient, GenerationError
from services.collector.metrics import CollectorMetrics
from services.collector.prompts import Prompt, TaskSource
from services.collector.settings import CollectorSettings
from services.collector.tokenizer import PolicyTokenizer
from services.collector.verifiers import Verifier
from services.contracts.events import EVENTS_A_READ, Discarded, Finished, Resumed, TrainerEvents, VersionPublished
from services.contracts.queue import TrajectoryQueue
from services.contracts.registry import ReplicaRecord, ReplicaRegistry
from services.contracts.trajectory import TOKEN_DTYPE, ScoredGroup, Trajectory, TrajectoryBounds, encode_group
from services.runtime.process import UnavailableError
from services.runtime.settings import RunSettings
from services.runtime.tasks import end_tasks

REGISTRY_POLL_SECONDS = 0.25
"""How often the registry is read while every open group has found a replica."""
URGENT_POLL_SECONDS = 0.02
"""How often it is read while a group waits for a replica to reach its version: a swap takes milliseconds."""
EVENT_BLOCK_SECONDS = 1.0
"""How long one read waits for the trainer's next event; bounds how long an end can take."""
STALL_SECONDS = 30.0
"""When nothing has been sampled for this long although groups are open, the log says what they wait for."""

logger = logging.getLogger(__name__)


@dataclass
class Assignment:
    """A group on its way: who samples it, and which attempt this is."""

    ordinal: int
    attempt: int
    replica: ReplicaRecord
    started: float = field(default_factory=time.monotonic)


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
        self._registry = registry
        self._events = events
        self._metrics = metrics
        self._admission = Admission(run.groups_per_batch, run.max_staleness, run.steps)
        self._dispatcher = Dispatcher(settings.queue_factor)
        self._replicas: list[ReplicaRecord] = []
        self._clients: dict[str, GenerationClient] = {}
        self._attempts: dict[int, int] = {}
        self._last_replica: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._finished = asyncio.Event()
        self._groups: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._idle_since: float | None = None

    def not_ready(self) -> str | None:
        """Why no work is being done, or None."""
        if self._admission.version < 0:
            return "waiting for the trainer to announce its policy"
        if not any(replica.ready for replica in self._replicas):
            return "no replica is ready"
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Raises UnavailableError when a prompt is refused by the replicas for good."""
        await self._catch_up(stop)
        background = [
            asyncio.create_task(self._follow_trainer(), name="follow trainer"),
            asyncio.create_task(self._dispatch(), name="dispatch"),
        ]
        endings = [asyncio.create_task(stop.wait()), asyncio.create_task(self._finished.wait())]
        try:
            await asyncio.wait([*background, *endings], return_when=asyncio.FIRST_COMPLETED)
        finally:
            groups = list(self._groups)
            await end_tasks(*background, *endings, *groups)
            for client in self._clients.values():
                await client.close()
        errors = [task.exception() for task in background if not task.cancelled()]
        if failure := self._failure or next(filter(None, errors), None):
            raise failure

    async def _catch_up(self, stop: asyncio.Event) -> None:
        """Replays the trainer's events and takes over what an earlier collector of this run has published."""
        version = -1
        behind = True
        while behind and not stop.is_set():
            events = await self._events.follow(EVENT_BLOCK_SECONDS)
            for event in events:
                match event:
                    case VersionPublished() | Resumed():
                        version = event.version
                        self._finished.clear()
                    case Finished():
                        version = event.version
                        self._finished.set()
            behind = version < 0 or len(events) == EVENTS_A_READ
        if version >= 0:
            await self._resume(version)

    async def _resume(self, version: int) -> None:
        """Starts over from a trainer at `version`, with what the queue holds."""
        accepted = await self._queue.accepted(version * self._run.groups_per_batch)
        self._admission.resume(version, accepted)
        self._metrics.version.set(version)
        logger.info("starts", extra={"version": version, "already_published": len(accepted)})

    async def _follow_trainer(self) -> None:
        while True:
            try:
                events = await self._events.follow(EVENT_BLOCK_SECONDS)
            except RedisError as error:
                logger.warning("cannot read the trainer's events, trying again: %s", error)
                await asyncio.sleep(1.0)
                continue
            for event in events:
                match event:
                    case Resumed(version=version):
                        await self._resume_patiently(version)
                    case VersionPublished(version=version):
                        self._admission.advance(version)
                        self._metrics.version.set(version)
                        trained = version * self._run.groups_per_batch
                        self._attempts = {o: attempts for o, attempts in self._attempts.items() if o >= trained}
                    case Discarded(ordinal=ordinal, reason=reason):
                        logger.warning("the trainer refused a group", extra={"ordinal": ordinal, "reason": reason})
                        self._admission.discard(ordinal)
                    case Finished():
                        self._finished.set()
                        return
            self._changed.set()

    async def _resume_patiently(self, version: int) -> None:
        async for attempt in self._patient():
            with attempt:
                await self._resume(version)

    async def _dispatch(self) -> None:
        """Gives every open group to a replica as soon as one may and can take it."""
        while True:
            await self._refresh_replicas()
            while (ordinal := self._admission.peek()) is not None:
                replica = self._dispatcher.choose(
                    self._serving_known_versions(),
                    self._run.samples_per_group,
                    self._admission.required_version(ordinal),
                    time.monotonic(),
                    avoid=self._last_replica.get(ordinal),
                )
                if replica is None:
                    break
                self._start(replica)
            self._metrics.running.set(self._admission.running)
            self._metrics.waiting.set(self._admission.open)
            self._warn_of_a_stall(time.monotonic())
            self._changed.clear()
            pause = REGISTRY_POLL_SECONDS if self._admission.peek() is None else URGENT_POLL_SECONDS
            await _wait(self._changed, pause)

    def _serving_known_versions(self) -> list[ReplicaRecord]:
        """Replicas whose version the trainer has announced. One that is ahead has its version from a trainer that died:
        the trainer that resumed will bring it back."""
        return [replica for replica in self._replicas if replica.policy_version <= self._admission.version]

    def _warn_of_a_stall(self, now: float) -> None:
        ordinal = self._admission.peek()
        if ordinal is None or self._admission.running:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= STALL_SECONDS:
            self._idle_since = now
            serving = {replica.replica_id: replica.policy_version for replica in self._replicas if replica.ready}
            logger.warning(
                "no replica can take the next group: see the trainer's log for refused weight pushes",
                extra={"needs_version": self._admission.required_version(ordinal), "ready_replicas_serve": serving},
            )

    async def _refresh_replicas(self) -> None:
        try:
            self._replicas = await self._registry.replicas()
        except RedisError as error:
            logger.warning("cannot read the registry, keeping the last list: %s", error)
            return
        self._metrics.replicas.set(sum(replica.ready for replica in self._replicas))
        alive = {replica.replica_id for replica in self._replicas}
        self._dispatcher.forget_except(alive)
        busy = {task.get_name() for task in self._groups}
        for replica_id in [name for name in self._clients if name not in alive and name not in busy]:
            await self._clients.pop(replica_id).close()

    def _start(self, replica: ReplicaRecord) -> None:
        ordinal = self._admission.start()
        attempt = self._attempts[ordinal] = self._attempts.get(ordinal, 0) + 1
        if attempt > self._settings.max_attempts:
            self._fail(
                f"the group of ordinal {ordinal} has come to nothing {attempt - 1} times (collector.max_attempts); the "
                "warnings above say why"
            )
        self._dispatcher.sent(replica.replica_id, self._run.samples_per_group)
        assignment = Assignment(ordinal, attempt, replica)
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
            self._on_failed_call(assignment, prompt, error)
            return
        self._dispatcher.succeeded(replica.replica_id, self._run.samples_per_group)
        published = await self._publish(group)
        self._admission.accept(ordinal)
        self._last_replica.pop(ordinal, None)
        self._metrics.groups.labels("published" if published else "duplicate").inc()
        self._metrics.group_seconds.observe(time.monotonic() - assignment.started)
        self._metrics.reward.set(sum(group.rewards) / len(group.rewards))
        self._metrics.tokens.inc(sum(len(trajectory.token_ids) for trajectory in group.trajectories))
        self._changed.set()

    async def _generate(self, assignment: Assignment, prompt: Prompt) -> ScoredGroup:
        group_id = f"{self._run.name}-{assignment.ordinal}-{assignment.attempt}"
        token_ids = self._tokenizer.encode_prompt(prompt.text)
        client = self._client(assignment.replica)
        trajectories = await client.generate(
            group_id,
            token_ids,
            self._run.samples_per_group,
            self._settings.sampling.model_copy(update={"seed": group_seed(self._run.seed, assignment.ordinal)}),
            TrajectoryBounds(vocab_size=assignment.replica.vocab_size),
            self._settings.group_deadline_seconds,
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

    async def _publish(self, group: ScoredGroup) -> bool:
        """Keeps trying: what was sampled is not thrown away because Redis is away."""
        payload = encode_group(group)
        async for attempt in self._patient():
            with attempt:
                return await self._queue.publish(group.ordinal, payload)
        raise AssertionError("unreachable: the retries above have no end")

    def _patient(self) -> AsyncRetrying:
        """Tries again, without end, while Redis is away."""
        return AsyncRetrying(
            retry=retry_if_exception_type((RedisConnectionError, RedisTimeoutError)),
            wait=wait_random_exponential(multiplier=0.2, max=5.0),
            before_sleep=before_sleep_log(logger, logging.WARNING),
        )

    def _on_failed_call(self, assignment: Assignment, prompt: Prompt, error: GenerationError) -> None:
        ordinal, replica = assignment.ordinal, assignment.replica
        self._dispatcher.failed(replica.replica_id, self._run.samples_per_group, time.monotonic())
        self._last_replica[ordinal] = replica.replica_id
        self._admission.fail(ordinal)
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
        self._changed.set()

    def _fail(self, message: str) -> None:
        self._failure = UnavailableError(message)
        self._finished.set()

    def _client(self, replica: ReplicaRecord) -> GenerationClient:
        if replica.replica_id not in self._clients:
            self._clients[replica.replica_id] = GenerationClient(replica.grpc_address)
        return self._clients[replica.replica_id]


def group_seed(run_seed: int, ordinal: int) -> int:
    """Seed of a group's random stream, below 2^63: unrelated for any two ordinals or runs."""
    return random.Random(f"{run_seed}:sampling:{ordinal}").getrandbits(63)


def _as_tokens(token_ids: list[int]) -> np.ndarray:
    return np.asarray(token_ids, dtype=TOKEN_DTYPE)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    # Not wait_for: before Python 3.12 it can swallow a cancellation that races with the event.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
