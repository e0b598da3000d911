"""Looks at the queue every few seconds, so that what it holds is known while nothing is trained as well."""

from __future__ import annotations

import asyncio
import time

from redis.exceptions import RedisError

from ais.contracts.queue import TrajectoryQueue
from ais.runtime.network.redis import is_away
from ais.trainer.groups.intake import Intake
from ais.trainer.history.commits import Commits
from ais.trainer.metrics import TrainerMetrics

LOOK_SECONDS = 2.0


class QueueWatch:
    """Shows depth, age and dead letters of one run's queue."""

    def __init__(self, queue: TrajectoryQueue, intake: Intake, commits: Commits, metrics: TrainerMetrics) -> None:
        self._queue = queue
        self._intake = intake
        self._commits = commits
        self._metrics = metrics.queue

    async def run(self) -> None:
        """Looks until cancelled. While Redis is away it shows what it saw last; others tell of that."""
        while True:
            try:
                await self._look()
            except RedisError as error:
                if not is_away(error):
                    raise
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        self._metrics.depth.set(max(0, await self._queue.depth() - self._commits.unacknowledged))
        self._metrics.dead_letters.set(await self._queue.dead_letters())
        oldest = self._intake.oldest()
        self._metrics.oldest.set(0.0 if oldest is None else max(0.0, time.time() - oldest))
