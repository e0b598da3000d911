"""A collector's process, put together: settings in, the loop and its metrics page out."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from ais.collector.collector import Collector
from ais.collector.exercise import open_exercise
from ais.collector.metrics import CollectorMetrics
from ais.collector.prompts.prompts import Split
from ais.collector.replicas.proof import Expected
from ais.collector.settings import CollectorProcessSettings
from ais.collector.trainer_watch import TrainerChannel
from ais.contracts.events import TrainerEvents
from ais.contracts.keys import Keys
from ais.contracts.model_identity import identify_model
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.redis_commands import commands_of
from ais.contracts.registry import ReplicaRegistry
from ais.runtime.metrics import service_registry
from ais.runtime.network.http import application, serve
from ais.runtime.network.patience import persist
from ais.runtime.network.redis import connect


async def collect(settings: CollectorProcessSettings, stop: asyncio.Event) -> None:
    """Runs until the trainer has finished or `stop` is set. Raises UnavailableError."""
    registry = service_registry("collector")
    metrics = CollectorMetrics(registry)
    keys = Keys(settings.run.name)
    async with AsyncExitStack() as stack:
        exercise = await stack.enter_async_context(open_exercise(settings, Split.TRAIN, metrics.judged))
        redis = await connect(settings.redis, commands_of(keys))
        stack.push_async_callback(redis.aclose)
        queue = TrajectoryQueue(redis, keys)
        await persist(queue.prepare, settings.redis.connect_timeout_seconds)
        trainer = TrainerChannel(queue, TrainerEvents(redis, keys))
        replicas = ReplicaRegistry(redis, keys)
        expected = Expected(settings.run.name, identify_model(settings.run.model))
        collector = Collector(settings.run, settings.collector, exercise, trainer, replicas, expected, metrics)
        app = application("AIS collector", registry, collector.not_ready)
        await stack.enter_async_context(serve(app, settings.collector.http_host, settings.collector.http_port))
        await collector.run(stop)
