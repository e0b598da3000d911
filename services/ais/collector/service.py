"""A collector's process, put together: settings in, the loop and its metrics page out."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import replace

from redis.asyncio import Redis

from ais.collector.collector import Collector
from ais.collector.evaluating.while_training import Evaluator
from ais.collector.exercise import Exercise, open_exercise
from ais.collector.metrics import CollectorMetrics
from ais.collector.prompts.prompts import Split
from ais.collector.replicas.proof import Expected
from ais.collector.settings import CollectorProcessSettings
from ais.collector.trainer_watch import TrainerChannel
from ais.contracts.evaluation.board import EvaluationBoard
from ais.contracts.events import TrainerEvents
from ais.contracts.keys import Keys
from ais.contracts.model_identity import identify_model
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.redis_commands import collector_commands
from ais.contracts.registry import ReplicaRegistry
from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.http import application, serve
from ais.runtime.network.patience import persist
from ais.runtime.network.redis import connect
from ais.runtime.security.keyring import open_keyring
from ais.runtime.security.roles import Role
from ais.runtime.tasks import end_tasks

logger = logging.getLogger(__name__)


async def collect(settings: CollectorProcessSettings, stop: asyncio.Event) -> None:
    """Runs until the trainer has finished or `stop` is set. Raises UnavailableError."""
    host = settings.collector.http_host
    keyring = open_keyring(settings.security, settings.run, collector__http_host=host)
    door, credential = keyring.door(Role.METRICS), keyring.credential(Role.COLLECTOR)
    registry = service_registry("collector", settings.run.name)
    metrics = CollectorMetrics(registry, settings.collector.task.all_component_labels, settings.run.groups_per_batch)
    keys = Keys(settings.run.name)
    async with AsyncExitStack() as stack:
        exercise = await stack.enter_async_context(
            open_exercise(settings, Split.TRAIN, metrics.judged, metrics.service_called, metrics.episode_ended)
        )
        for source in exercise.task.sources:
            metrics.too_long.labels(source.name).set(source.too_long)
        redis = await connect(settings.redis, collector_commands(keys))
        stack.push_async_callback(redis.aclose)
        queue = TrajectoryQueue(redis, keys)
        await persist(queue.prepare, settings.redis.connect_timeout_seconds)
        trainer = TrainerChannel(queue, TrainerEvents(redis, keys))
        replicas = ReplicaRegistry(redis, keys)
        expected = Expected(settings.run.name, identify_model(settings.run.model))
        collector = Collector(
            settings.run, settings.collector, exercise, trainer, replicas, expected, metrics, credential
        )
        app = application("AIS collector", registry, collector.not_ready)
        await stack.enter_async_context(serve(app, host, settings.collector.http_port, door))
        beside = asyncio.create_task(_evaluate_beside(settings, exercise, collector, redis, metrics))
        try:
            await collector.run(stop)
        finally:
            await end_tasks(beside)


async def _evaluate_beside(
    settings: CollectorProcessSettings,
    exercise: Exercise,
    collector: Collector,
    redis: Redis,
    metrics: CollectorMetrics,
) -> None:
    """Evaluates on the held-out prompts of `exercise` while `collector` collects, where the settings ask for it."""
    if settings.evaluation.every_steps == 0 or exercise.held_out is None:
        return
    keys = Keys(settings.run.name)
    evaluator = Evaluator(
        run=settings.run,
        collector=settings.collector,
        settings=settings.evaluation,
        exercise=replace(exercise, task=exercise.held_out),
        events=TrainerEvents(redis, keys),
        board=EvaluationBoard(redis, keys),
        fleet=collector.fleet,
        verify=collector.verify,
        metrics=metrics,
    )
    try:
        await evaluator.follow()
    except Exception:
        logger.exception("evaluation has ended; training goes on")
