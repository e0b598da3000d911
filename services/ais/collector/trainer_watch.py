"""Follows the trainer: its versions open prompts, its refusals open them again, its end is ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ais.collector.admission import Admission
from ais.collector.metrics import CollectorMetrics
from ais.contracts.events import (
    Discarded,
    Event,
    Finished,
    Resumed,
    TrainerEvents,
    VersionPublished,
)
from ais.contracts.queue import TrajectoryQueue
from ais.runtime.patience import persist

EVENT_BLOCK_SECONDS = 1.0
"""How long one read waits for the trainer's next event; bounds how long an end can take."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainerChannel:
    """What goes to the trainer and what comes from it."""

    queue: TrajectoryQueue
    events: TrainerEvents


class TrainerWatch:
    """Keeps `admission` in step with the trainer. Single-threaded, like the collector it belongs to."""

    def __init__(
        self, channel: TrainerChannel, admission: Admission, groups_per_batch: int, metrics: CollectorMetrics
    ) -> None:
        self._channel = channel
        self._admission = admission
        self._groups_per_batch = groups_per_batch
        self._metrics = metrics
        self.finished = asyncio.Event()
        """Set while the trainer's newest word is that it has finished."""

    async def catch_up(self) -> None:
        """Replays the trainer's events and takes over what an earlier collector of this run has published."""
        version = -1
        behind = True
        while behind:
            events = await self._next_events()
            for event in events:
                match event:
                    case VersionPublished() | Resumed():
                        version = event.version
                        self.finished.clear()
                    case Finished():
                        version = event.version
                        self.finished.set()
            behind = version < 0 or self._channel.events.behind
        await self._resume(version)

    async def follow(self, changed: Callable[[int], None]) -> None:
        """Until the trainer finishes. `changed` is called with the first ordinal not trained yet, after each read."""
        while not self.finished.is_set():
            for event in await self._next_events():
                match event:
                    case Resumed(version=version):
                        await self._resume(version)
                    case VersionPublished(version=version):
                        self._admission.advance(version)
                        self._metrics.version.set(version)
                    case Discarded(ordinal=ordinal, reason=reason):
                        logger.warning("the trainer refused a group", extra={"ordinal": ordinal, "reason": reason})
                        self._admission.discard(ordinal)
                    case Finished():
                        self.finished.set()
            changed(self._admission.version * self._groups_per_batch)

    async def _resume(self, version: int) -> None:
        """Starts over from a trainer at `version`, with what the queue holds."""
        first = version * self._groups_per_batch
        if lost := await persist(self._channel.queue.reconcile, None):
            logger.warning("the queue has lost groups, they are sampled again", extra={"ordinals": sorted(lost)})
        accepted = await persist(partial(self._channel.queue.accepted, first), None)
        self._admission.resume(version, accepted)
        self._metrics.version.set(version)
        logger.info("starts", extra={"version": version, "already_published": len(accepted)})

    async def _next_events(self) -> list[Event]:
        return await persist(partial(self._channel.events.follow, EVENT_BLOCK_SECONDS), None)
