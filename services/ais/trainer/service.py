"""The trainer service: queue to batch to optimizer step to weights, until the run's steps are done.

It starts where the run's newest checkpoint is.

The optimizer computes in a worker thread; reading ahead, weight uploads, metrics and health go on in the event loop
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.contracts.events import Finished, Resumed, TrainerEvents, VersionPublished
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRegistry
from ais.runtime.addresses import http_url
from ais.runtime.http import application, serve
from ais.runtime.metrics import service_registry
from ais.runtime.patience import Result, persist
from ais.runtime.redis import connect
from ais.runtime.tasks import end_tasks
from ais.trainer import record
from ais.trainer.groups.intake import Buffered, Intake
from ais.trainer.groups.reader import GroupReader, no_hidden_retries
from ais.trainer.history.commits import Commits
from ais.trainer.history.lease import Lease, take_lease
from ais.trainer.learning.learner import StepOutcome
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import join
from ais.trainer.ranks.sharding import load_policy
from ais.trainer.record import StepRecord
from ais.trainer.samples import SampleLog, decoder
from ais.trainer.settings import Settings
from ais.trainer.start import Start, start_of
from ais.trainer.weights.deltas import Origin
from ais.trainer.weights.publisher import WeightPublisher
from ais.trainer.weights.snapshot import Snapshot

STOP_SECONDS = 20.0
"""After a stop, the running step and the checkpoint may take this long before they are abandoned."""

logger = logging.getLogger(__name__)


async def serve_trainer(settings: Settings, stop: asyncio.Event) -> None:
    """Trains the run's steps, or until `stop` is set; then commits what is trained and returns.

    Raises UnavailableError when the model cannot be loaded, another trainer has the run, or no checkpoint of it is
    whole, and RedisUnreachableError.
    """
    torch.set_num_threads(settings.trainer.compute.threads)
    torch.manual_seed(settings.run.seed)
    registry = service_registry("trainer")
    not_ready: list[str] = ["loading the model"]
    app = application("AIS trainer", registry, lambda: next(iter(not_ready), None))
    redis, reading = await connect(settings.redis), await connect(settings.redis)
    no_hidden_retries(reading)
    host = settings.trainer.http_host
    try:
        patience = settings.trainer.redis_patience_seconds
        async with (
            take_lease(redis, settings.run, patience) as lease,
            serve(app, host, settings.trainer.http_port) as port,
        ):
            logger.info("listening", extra={"url": http_url(host, port)})
            ranks = await asyncio.to_thread(join, settings.trainer)
            policy = await asyncio.to_thread(load_policy, settings.run.model, settings.trainer, ranks)
            start = await start_of(settings, policy, ranks)
            announced = await persist(TrainerEvents(redis, Keys(settings.run.name)).newest_version, patience)
            trainer = TrainerService(settings, redis, reading, policy, lease, start, announced, registry)
            not_ready.clear()
            await trainer.run(stop)
            await asyncio.to_thread(start.learner.end)
    finally:
        await reading.aclose()
        await redis.aclose()


@dataclass(frozen=True)
class _Trained:
    """A step that is done and not yet told."""

    outcome: StepOutcome
    batch: list[Buffered]
    time: float
    unacknowledged: int
    """Groups trained and not yet acknowledged, this batch included: the stream still holds them."""
    incarnation: int
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
            queue_depth=max(0, stream_length - self.unacknowledged),
            replicas=replicas,
            ordinals=[item.group.ordinal for item in self.batch],
            group_ids=[item.group.group_id for item in self.batch],
            incarnation=self.incarnation,
        )


class TrainerService:
    """Owns the run's state and the order in which its effects become visible."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        reading: Redis,
        policy: Policy,
        lease: Lease,
        start: Start,
        announced: int,
        registry: CollectorRegistry,
    ) -> None:
        """`reading` is a client for the group reader alone, without hidden retries. `announced`: the newest version any
        trainer of the run has announced."""
        run, trainer = settings.run, settings.trainer
        keys = Keys(run.name)
        self._run = run
        self._settings = trainer
        self._metrics = TrainerMetrics(registry)
        self._events = TrainerEvents(redis, keys, lease.incarnation)
        self._queue = TrajectoryQueue(redis, keys)
        self._intake = Intake(
            run,
            policy.vocab_size,
            policy.context_length,
            version=start.snapshot.version,
            announced=announced,
            covered=start.checkpoint.manifest.entry_ids if start.checkpoint else (),
        )
        self._reader = GroupReader(
            TrajectoryQueue(reading, keys, lease.incarnation),
            self._intake,
            self._metrics,
            run.groups_per_batch,
            trainer.redis_patience_seconds,
        )
        self._publisher = WeightPublisher(
            ReplicaRegistry(redis, keys),
            trainer.push,
            self._metrics,
            Origin(lease.identity, lease.incarnation),
            run.use_proxy,
        )
        self._learner = start.learner
        self._store = start.store
        self._commits = Commits(
            run,
            self._learner,
            start.store,
            self._queue,
            self._intake,
            lease,
            start.checkpoint,
            self._metrics,
            trainer.redis_patience_seconds,
        )
        self._lease = lease
        self._samples = SampleLog(run.path, decoder(run.model), trainer.samples_per_step)
        self._clock = PhaseClock()
        self._trained: asyncio.Queue[_Trained] = asyncio.Queue()
        self._snapshot = start.snapshot

    async def run(self, stop: asyncio.Event) -> None:
        """Trains until the run's steps are done, or `stop` is set and what is trained is committed."""
        await self._persist(self._queue.prepare)
        self._offer(self._snapshot)
        await self._persist(partial(self._events.publish, Resumed(self._snapshot.version, self._snapshot.digest)))
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
        await self._commits.finish()
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
            self._commits.consumed(batch)
            self._snapshot = outcome.snapshot
            held = self._commits.unacknowledged
            self._trained.put_nowait(
                _Trained(outcome, batch, time.time(), held, self._lease.incarnation, *self._clock.finish())
            )
            if self._intake.version % self._settings.checkpoints.every_steps == 0 or self._commits.failed():
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
        self._offer(snapshot)
        await self._persist(partial(self._events.publish, VersionPublished(snapshot.version, snapshot.digest)))

    def _offer(self, snapshot: Snapshot) -> None:
        self._metrics.policy_version.set(snapshot.version)
        self._publisher.offer(snapshot)

    async def _announce(self) -> None:
        """Tells the world about each step, in order, while the next batch is waited for or trained already."""
        while True:
            step = await self._trained.get()
            await self._publish(step.outcome.snapshot)
            depth = await self._persist(self._queue.depth)
            line = step.record(depth, self._publisher.live_replicas)
            record.append(self._run.path, line)
            self._samples.append(line.step, [item.group for item in step.batch])
            self._metrics.record(line, step.outcome.staleness)
            self._trained.task_done()

    async def _commit(self) -> None:
        """Begins a checkpoint of what is trained."""
        await self._commits.begin(self._snapshot, self._trained.join)

    async def _finish(self) -> None:
        await self._trained.join()
        path = await asyncio.to_thread(self._store.save_final, self._snapshot, self._commits.manifest(self._snapshot))
        await self._commits.acknowledge_all()
        await self._persist(partial(self._events.publish, Finished(self._snapshot.version)))
        logger.info("finished", extra={"model": str(path), "version": self._snapshot.version})
        if not await self._publisher.settle(self._settings.push.final_seconds):
            logger.warning(
                "ending before every replica has the final version", extra={"version": self._snapshot.version}
            )

    async def _persist(self, call: Callable[[], Awaitable[Result]]) -> Result:
        return await persist(call, self._settings.redis_patience_seconds)
