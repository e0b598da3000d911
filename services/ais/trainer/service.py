"""The trainer service: queue to batch to optimizer step to weights, until the run's steps are done.

It starts where the run's newest checkpoint is. The optimizer computes in a worker thread; reading ahead, weight
uploads, metrics and health go on in the event loop meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.contracts.evaluation.board import EvaluationBoard
from ais.contracts.events import TrainerEvents
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.redis_commands import trainer_commands
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.routing.shape import read_routing_shape
from ais.runtime.metrics.last_word import Readers
from ais.runtime.metrics.meter import Meter
from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.addresses import http_url
from ais.runtime.network.http import application, serve
from ais.runtime.network.patience import persist
from ais.runtime.network.redis import connect
from ais.runtime.security.keyring import Credential, open_keyring
from ais.runtime.security.roles import Role
from ais.runtime.tasks import end_tasks
from ais.trainer.announcer import Announcer
from ais.trainer.evaluations import Evaluations
from ais.trainer.groups.intake import Intake
from ais.trainer.groups.reader import GroupReader, no_hidden_retries
from ais.trainer.groups.stall_watch import StallWatch
from ais.trainer.history.commits import Commits
from ais.trainer.history.lease import Lease, take_lease
from ais.trainer.history.queue_watch import QueueWatch
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.metrics.state import RunStateMetrics
from ais.trainer.ranks.ranks import join
from ais.trainer.ranks.sharding import load_policy
from ais.trainer.settings import Settings
from ais.trainer.start import Start, start_of
from ais.trainer.training import TrainingLoop
from ais.trainer.warning_log import WarningLog
from ais.trainer.weights.deltas import Origin
from ais.trainer.weights.fleet_file import FleetFile
from ais.trainer.weights.heads import HeadWatch
from ais.trainer.weights.publisher import WeightPublisher

STOP_SECONDS = 20.0
"""After a stop, the running step and the checkpoint may take this long before they are abandoned."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Redises:
    """The trainer's clients of one server."""

    usual: Redis
    reading: Redis
    """For the group reader alone: without hidden retries."""


class _Health:
    """What /readyz answers."""

    def __init__(self) -> None:
        self.trainer: TrainerService | None = None

    def not_ready(self) -> str | None:
        return "loading the model" if self.trainer is None else self.trainer.not_ready


async def serve_trainer(settings: Settings, stop: asyncio.Event) -> None:
    """Trains the run's steps, or until `stop` is set; then commits what is trained and returns.

    Raises UnavailableError when the model cannot be loaded, another trainer has the run, no checkpoint of it is whole,
    or batch after batch cannot be trusted; and RedisUnreachableError.
    """
    host = settings.trainer.http_host
    keyring = open_keyring(settings.security, settings.run, trainer__http_host=host)
    door, credential = keyring.door(Role.METRICS), keyring.credential(Role.TRAINER)
    # Each thread that computes brings OpenMP threads of its own, and where these are more than the cores, all of them
    # sleep between two operations, which costs more than they gain. So what loads the model computes alone, and the
    # learner's thread sets its number when it begins (`Conductor`).
    torch.set_num_threads(1)
    torch.manual_seed(settings.run.seed)
    registry = service_registry("trainer", settings.run.name)
    health = _Health()
    readers = Readers()
    app = application("AIS trainer", registry, health.not_ready, readers)
    redis = await connect(settings.redis, trainer_commands(Keys(settings.run.name)))
    reading = await connect(settings.redis)
    no_hidden_retries(reading)
    try:
        async with (
            take_lease(redis, settings.run, settings.trainer.redis_patience_seconds) as lease,
            serve(app, host, settings.trainer.http_port, door) as port,
        ):
            logger.info("listening", extra={"url": http_url(host, port, tls=keyring.certificates is not None)})
            try:
                with shown_as_failed(registry):
                    start, intake = await _loaded(settings, redis)
                health.trainer = trainer = TrainerService(
                    settings, Redises(redis, reading), lease, start, intake, registry, credential
                )
                await trainer.run(stop)
            finally:
                if not stop.is_set():
                    await readers.last_word(stop)  # whether it has finished or failed
            await asyncio.to_thread(start.learner.end)
    finally:
        await reading.aclose()
        await redis.aclose()


async def _loaded(settings: Settings, redis: Redis) -> tuple[Start, Intake]:
    """The policy where training begins, and what judges groups from there on."""
    ranks = await asyncio.to_thread(join, settings.trainer)
    policy = await asyncio.to_thread(
        load_policy,
        settings.run.model,
        settings.trainer,
        ranks,
        settings.run.seed,
        routing_replay=settings.run.routing_replay,
    )
    start = await start_of(settings, policy, ranks)
    events = TrainerEvents(redis, Keys(settings.run.name))
    intake = Intake(
        settings.run,
        policy.vocab_size,
        policy.context_length,
        version=start.snapshot.version,
        announced=await persist(events.newest_version, settings.trainer.redis_patience_seconds),
        covered=start.checkpoint.manifest.entry_ids if start.checkpoint else (),
        routing=read_routing_shape(settings.run.model) if settings.run.routing_replay else None,
    )
    return start, intake


@contextmanager
def shown_as_failed(registry: CollectorRegistry) -> Iterator[None]:
    """While a trainer loads it has no figures; one that fails then shows that it did, and nothing else."""
    try:
        yield
    except Exception:
        RunStateMetrics(Meter(registry)).enter("failed")
        raise


class TrainerService:
    """Assembles the parts of one trainer and runs them beside each other."""

    def __init__(
        self,
        settings: Settings,
        redis: Redises,
        lease: Lease,
        start: Start,
        intake: Intake,
        registry: CollectorRegistry,
        credential: Credential,
    ) -> None:
        run, trainer = settings.run, settings.trainer
        keys, replicas = Keys(run.name), ReplicaRegistry(redis.usual, Keys(run.name))
        self._metrics = metrics = TrainerMetrics(registry)
        metrics.progress.begin(settings)
        warnings = WarningLog(run.path, metrics)
        self._settings = settings
        self._queue = TrajectoryQueue(redis.usual, keys)
        self._reader = GroupReader(TrajectoryQueue(redis.reading, keys, lease.incarnation), intake, metrics, settings)
        origin = Origin(lease.identity, lease.incarnation)
        fleet = FleetFile(run.path)
        heads = HeadWatch(trainer.float32_head)

        def looked(records: Sequence[ReplicaRecord]) -> None:
            if (warned := heads.look(records)) is not None:
                with suppress(OSError):  # a full disk must not end the publisher; the metric counts it all the same
                    warnings.tell(warned, intake.version)

        self._publisher = WeightPublisher(
            replicas,
            trainer.push,
            metrics,
            origin,
            run.use_proxy,
            credential,
            fleet,
            looked,
            trainer.push.shared_directory(run.path),
        )
        events = TrainerEvents(redis.usual, keys, lease.incarnation)
        self._announcer = Announcer(settings, events, self._queue, self._publisher, metrics, warnings, fleet)
        commits = Commits(settings, start.learner, start.store, self._reader, lease, metrics)
        if start.checkpoint:
            commits.go_on_from(start.checkpoint.manifest)
        self._queue_watch = QueueWatch(self._queue, intake, commits, metrics)
        self._stall = StallWatch(settings, intake, self._queue, replicas, metrics, warnings)
        board = EvaluationBoard(redis.usual, keys)
        self._evaluations = Evaluations(run, settings.evaluation, board, start.store, metrics)
        self._loop = TrainingLoop(
            settings, start, intake, self._reader, commits, self._announcer, self._stall, self._evaluations
        )
        self._start = start

    @property
    def not_ready(self) -> str | None:
        """Why nothing is trained, or None."""
        return self._stall.reason

    async def run(self, stop: asyncio.Event) -> None:
        """Trains until the run's steps are done, or `stop` is set and what is trained is committed."""
        await persist(self._queue.prepare, self._settings.trainer.redis_patience_seconds)
        await self._announcer.resumed(self._start.snapshot)
        await self._evaluations.forget_after(self._start.snapshot.version)
        training = asyncio.create_task(self._train(stop), name="training")
        beside = (
            self._announcer.run(),
            self._reader.run(),
            self._publisher.run(),
            self._evaluations.run(),
            self._stall.run(self._loop.announce_again),
            self._queue_watch.run(),
        )
        working = [training, *map(asyncio.create_task, beside)]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED, timeout=STOP_SECONDS)
        finally:
            await end_tasks(*working, stopping)
        for task in working:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._metrics.progress.enter("failed")
                raise error
        if training.cancelled():
            logger.error("stopped before the last batches were committed; the queue still holds their groups")

    async def _train(self, stop: asyncio.Event) -> None:
        if await self._loop.run(stop):
            await self._finish()
        else:
            self._metrics.progress.enter("stopped")

    async def _finish(self) -> None:
        await self._evaluations.take()
        if verdict := self._evaluations.verdict:
            logger.warning("training ends early: %s", verdict)
        path = await self._loop.conclude()
        version = self._loop.version
        self._metrics.progress.enter("finished")
        logger.info("finished", extra={"model": str(path), "version": version})
        if not await self._publisher.settle(self._settings.trainer.push.final_seconds):
            logger.warning("ending before every replica has the final version", extra={"version": version})
