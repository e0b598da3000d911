"""A collector's process, put together: settings in, the loop and its metrics page out."""

from __future__ import annotations

import asyncio
import logging

from ais.collector.collector import Collector
from ais.collector.exercise import check_evaluation, open_exercise
from ais.collector.metrics import CollectorMetrics
from ais.collector.prompts.prompts import Split
from ais.collector.settings import CollectorProcessSettings
from ais.collector.trainer_watch import TrainerChannel
from ais.contracts.events import TrainerEvents
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRegistry
from ais.runtime.addresses import http_url
from ais.runtime.http import application, serve
from ais.runtime.metrics import service_registry
from ais.runtime.patience import persist
from ais.runtime.redis import connect

logger = logging.getLogger(__name__)


async def collect(settings: CollectorProcessSettings, stop: asyncio.Event) -> None:
    """Runs until the trainer has finished or `stop` is set. Raises UnavailableError."""
    exercise = open_exercise(settings, Split.TRAIN)
    check_evaluation(settings)
    redis = await connect(settings.redis)
    keys = Keys(settings.run.name)
    registry = service_registry("collector")
    queue = TrajectoryQueue(redis, keys)
    await persist(queue.prepare, settings.redis.connect_timeout_seconds)
    collector = Collector(
        settings.run,
        settings.collector,
        exercise,
        TrainerChannel(queue, TrainerEvents(redis, keys)),
        ReplicaRegistry(redis, keys),
        CollectorMetrics(registry),
    )
    app = application("AIS collector", registry, collector.not_ready)
    async with serve(app, settings.collector.http_host, settings.collector.http_port) as port:
        logger.info("metrics at %s/metrics", http_url(settings.collector.http_host, port))
        await collector.run(stop)
    await redis.aclose()
