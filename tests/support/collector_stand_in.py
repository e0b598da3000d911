"""What a collector does with the queue, without replicas: publishes made-up groups as admission allows."""

from __future__ import annotations

from collections.abc import Callable

from redis.asyncio import Redis

from ais.contracts.events import Discarded, Event, Finished, Resumed, TrainerEvents, VersionPublished
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.trajectory import encode_group
from ais.runtime.settings import RunSettings
from tests.support.trainer_groups import make_group

Corrupt = Callable[[int], bytes | None]
"""Called before an ordinal is published for the first time; bytes are published in the place of the good group."""


class StandInCollector:
    """Follows the trainer's events until the run is finished, and remembers them."""

    def __init__(self, redis: Redis, run: RunSettings, corrupt: Corrupt = lambda ordinal: None) -> None:
        keys = Keys(run.name)
        self._run = run
        self._queue = TrajectoryQueue(redis, keys)
        self._trainer = TrainerEvents(redis, keys)
        self._corrupt = corrupt
        self._next = 0
        self._version = 0
        self.events: list[Event] = []

    async def run(self) -> None:
        while not any(isinstance(event, Finished) for event in self.events):
            for event in await self._trainer.follow(0.5):
                self.events.append(event)
                match event:
                    case VersionPublished(version=version) | Resumed(version=version):
                        self._version = version
                        await self._publish_admitted()
                    case Discarded(ordinal=ordinal):
                        await self.publish(ordinal)

    async def publish(self, ordinal: int) -> None:
        group = make_group(ordinal, samples=self._run.samples_per_group, version=self._version)
        await self._queue.publish(ordinal, encode_group(group))

    async def _publish_admitted(self) -> None:
        run = self._run
        end = min(run.steps, run.max_staleness + self._version + 1) * run.groups_per_batch
        for ordinal in range(self._next, end):
            if (payload := self._corrupt(ordinal)) is not None:
                await self._queue.publish(ordinal, payload)
            else:
                await self.publish(ordinal)
        self._next = max(self._next, end)
