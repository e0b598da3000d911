"""The trainer service: queue to batch to optimizer step to weights, until the run's steps are done.

The optimizer computes in a worker thread; reading ahead, weight uploads, metrics and health go on in the event loop
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.contracts.events import Finished, TrainerEvents, VersionPublished
from services.contracts.keys import Keys
from services.contracts.queue import Entry, TrajectoryQueue
from services.contracts.registry import ReplicaRegistry
from services.runtime.http import application, serve
from services.runtime.metrics import service_registry
from services.runtime.process import UnavailableError
from services.runtime.redis import connect
from services.runtime.settings import RunSettings
from services.runtime.tasks import end_tasks
from services.trainer import record
from services.trainer.checkpoint import CheckpointWriter, Manifest
from services.trainer.conductor import Conductor
from services.trainer.intake import Buffered, Intake
from services.trainer.metrics import TrainerMetrics
from services.trainer.persist import Result, persist
from services.trainer.phases import PhaseClock
from services.trainer.policy import Policy
from services.trainer.publisher import WeightPublisher
from services.trainer.ranks import join
from services.trainer.reader import GroupReader, no_hidden_retries
from services.trainer.record import StepRecord
from services.trainer.settings import Settings
from services.trainer.sharding import load_policy
from services.trainer.snapshot import Snapshot
from services.trainer.step import Learner, StepOutcome

STOP_SECONDS = 20.0
"""After a stop, the running step and the checkpoint may take this long before they are abandoned."""

logger = logging.getLogger(__name__)


async def serve_trainer(settings: Settings, stop: asyncio.Event) -> None:
    """Trains the run's steps, or until `stop` is set; then commits what is trained and returns.

    Raises UnavailableError when the model cannot be loaded or an earlier trainer has left state behind, and
    RedisUnreachableError.
    """
    torch.set_num_threads(settings.trainer.threads)
    torch.manual_seed(settings.run.seed)
    registry = service_registry("trainer")
    not_ready: list[str] = ["loading the model"]
    app = application("AIS trainer", registry, lambda: next(iter(not_ready), None))
    redis, reading = await connect(settings.redis), await connect(settings.redis)
    no_hidden_retries(reading)
    try:
        await refuse_earlier_state(redis, settings.run)
        async with serve(app, settings.trainer.http_host, settings.trainer.http_port) as port:
            logger.info("listening", extra={"url": f"http://{settings.trainer.http_host}:{port}"})
            ranks = await asyncio.to_thread(join, settings.trainer)
            policy = await asyncio.to_thread(load_policy, settings.run.model, settings.trainer, ranks)
            learner = Conductor(Learner(policy, settings.run, settings.trainer, settings.correction, ranks), ranks)
            trainer = TrainerService(settings, redis, reading, policy, learner, registry)
            not_ready.clear()
            await trainer.run(stop)
            await asyncio.to_thread(learner.end)
    finally:
        await reading.aclose()
        await redis.aclose()


async def refuse_earlier_state(redis: Redis, run: RunSettings) -> None:
    """Raises UnavailableError when this run has been trained before: starting at version 0 would corrupt it."""
    keys = Keys(run.name)
    found = [f"Redis key {key}" for key in (keys.events, keys.groups) if await redis.xlen(key)]
    if (run.path / record.STEPS_FILE).exists():
        found.append(str(run.path / record.STEPS_FILE))
    if found:
        raise UnavailableError(
            f"run {run.name!r} holds the state of an earlier trainer ({', '.join(found)}). A trainer starts at version "
            "0 and cannot resume: choose another run.name, or remove the run's directory and Redis keys."
        )


@dataclass(frozen=True)
class _Consumed:
    """A group that is trained on and not yet acknowledged: what is left to know of it."""

    entry: Entry
    """Without its payload, which the queue still has."""
    group_id: str


@dataclass(frozen=True)
class _Trained:
    """A step that is done and not yet told."""

    outcome: StepOutcome
    batch: list[Buffered]
    time: float
    uncommitted: int
    """Groups trained and not yet acknowledged, this batch included: the stream still holds them."""
    step_seconds: float
    phase_seconds: dict[str, float]

    def record(self, stream_length: int, replicas: int) -> StepRecord:
        return StepRecord(
            **asdict(self.outcome.figures),
            time=self.time,
            digest=self.outcome.snapshot.digest,
            step_seconds=self.step_seconds,
            phase_seconds=self.phase_seconds,
            tokens_per_second=self.outcome.figures.tokens / self.step_seconds,
            queue_depth=stream_length - self.uncommitted,
            replicas=replicas,
            ordinals=[item.group.ordinal for item in self.batch],
            group_ids=[item.group.group_id for item in self.batch],
        )


class TrainerService:
    """Owns the run's state and the order in which its effects become visible."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        reading: Redis,
        policy: Policy,
        learner: Conductor,
        registry: CollectorRegistry,
    ) -> None:
        """`reading` is a client for the group reader alone, without hidden retries."""
        run, trainer = settings.run, settings.trainer
        keys = Keys(run.name)
        self._run = run
        self._settings = trainer
        self._metrics = TrainerMetrics(registry)
        self._events = TrainerEvents(redis, keys)
        self._queue = TrajectoryQueue(redis, keys)
        self._intake = Intake(run, policy.vocab_size, policy.context_length)
        self._reader = GroupReader(
            TrajectoryQueue(reading, keys),
            self._intake,
            self._metrics,
            run.groups_per_batch,
            trainer.redis_patience_seconds,
        )
        self._publisher = WeightPublisher(ReplicaRegistry(redis, keys), trainer, self._metrics)
        self._learner = learner
        self._checkpoints = CheckpointWriter(run.path, run.model, policy.model.config, trainer.keep_checkpoints)
        self._clock = PhaseClock()
        self._trained: asyncio.Queue[_Trained] = asyncio.Queue()
        self._uncommitted: list[_Consumed] = []
        self._snapshot = learner.snapshot()

    async def run(self, stop: asyncio.Event) -> None:
        """Trains until the run's steps are done, or `stop` is set and what is trained is committed."""
        self._run.path.mkdir(parents=True, exist_ok=True)
        await self._persist(self._queue.prepare)
        await self._publish(self._snapshot)
        training = asyncio.create_task(self._train_and_commit(stop), name="training")
        beside = (self._announce, self._reader.run, self._publisher.run)
        working = [training, *(asyncio.create_task(work()) for work in beside)]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED, timeout=STOP_SECONDS)
        finally:
            await end_tasks(*working, stopping)
        for task in working:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if training.cancelled():
            logger.error("stopped before the last batches were committed; the queue still holds their groups")

    async def _train_and_commit(self, stop: asyncio.Event) -> None:
        await self._train(stop)
        await self._commit()
        if self._intake.version == self._run.steps:
            await self._finish()

    async def _train(self, stop: asyncio.Event) -> None:
        self._clock.finish()
        while self._intake.version < self._run.steps:
            with self._clock.phase("wait"):
                if not await self._batch_arrived(stop):
                    return
            batch = self._intake.take()
            outcome = await asyncio.to_thread(self._learner.step, [item.group for item in batch], self._clock)
            self._intake.advance()
            self._uncommitted += [_Consumed(replace(item.entry, payload=b""), item.group.group_id) for item in batch]
            self._snapshot = outcome.snapshot
            self._trained.put_nowait(
                _Trained(outcome, batch, time.time(), len(self._uncommitted), *self._clock.finish())
            )
            if self._intake.version % self._settings.save_every_steps == 0:
                await self._commit()

    async def _batch_arrived(self, stop: asyncio.Event) -> bool:
        """Waits for the next batch. False: asked to stop."""
        if self._intake.complete():
            return not stop.is_set()
        waits = [asyncio.create_task(self._reader.batch_arrived()), asyncio.create_task(stop.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        await end_tasks(*waits)
        return not stop.is_set()

    async def _publish(self, snapshot: Snapshot) -> None:
        """Replicas are brought up in the background; the collector learns what it may start."""
        self._metrics.policy_version.set(snapshot.version)
        self._publisher.offer(snapshot)
        await self._persist(partial(self._events.publish, VersionPublished(snapshot.version, snapshot.digest)))

    async def _announce(self) -> None:
        """Tells the world about each step, in order, while the next batch is waited for or trained already."""
        while True:
            step = await self._trained.get()
            await self._publish(step.outcome.snapshot)
            depth = await self._persist(self._queue.depth)
            line = step.record(depth, self._publisher.live_replicas)
            record.append(self._run.path, line)
            self._metrics.record(line, step.outcome.staleness)
            self._trained.task_done()

    async def _commit(self) -> None:
        """Writes a checkpoint; only then are the groups that it covers acknowledged."""
        await self._trained.join()
        if not self._uncommitted:
            return
        path = await asyncio.to_thread(self._checkpoints.save, self._snapshot, self._manifest())
        entries = [item.entry for item in self._uncommitted]
        await self._persist(partial(self._queue.acknowledge, entries))
        self._intake.forget(entries)
        self._uncommitted = []
        logger.info("checkpoint", extra={"path": str(path), "version": self._snapshot.version, "groups": len(entries)})

    async def _finish(self) -> None:
        path = await asyncio.to_thread(self._checkpoints.save_final, self._snapshot, self._manifest())
        await self._persist(partial(self._events.publish, Finished(self._snapshot.version)))
        logger.info("finished", extra={"model": str(path), "version": self._snapshot.version})
        if not await self._publisher.settle(self._settings.final_push_seconds):
            logger.warning(
                "ending before every replica has the final version", extra={"version": self._snapshot.version}
            )

    async def _persist(self, call: Callable[[], Awaitable[Result]]) -> Result:
        return await persist(call, self._settings.redis_patience_seconds)

    def _manifest(self) -> Manifest:
        return Manifest(
            step=self._intake.version,
            version=self._snapshot.version,
            digest=self._snapshot.digest,
            ordinals=tuple(item.entry.ordinal for item in self._uncommitted),
            group_ids=tuple(item.group_id for item in self._uncommitted),
            correction=self._learner.correction_state,
        )
