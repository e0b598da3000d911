"""Follows the trainer: its versions open prompts, its refusals open them again, and its end ends the collector."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ais.collector.admission import Admission
from ais.collector.announced import Announced
from ais.collector.metrics import CollectorMetrics
from ais.collector.standstill import Standstill
from ais.contracts.events import (
    Discarded,
    Event,
    Finished,
    Resumed,
    TrainerEvents,
    VersionPublished,
)
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.trajectory import Trajectory
from ais.runtime.network.patience import persist

EVENT_BLOCK_SECONDS = 1.0
"""How long one read waits for the trainer's next event; bounds how long an end can take."""
ANNOUNCEMENT_SECONDS = 30.0
"""A replica that serves a version has it from the trainer, whose news of it comes here by then."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainerChannel:
    """What goes to the trainer and what comes from it."""

    queue: TrajectoryQueue
    events: TrainerEvents


class TrainerWatch:
    """Keeps `admission` in step with the trainer. Single-threaded, like the collector it belongs to."""

    def __init__(
        self,
        channel: TrainerChannel,
        admission: Admission,
        groups_per_batch: int,
        metrics: CollectorMetrics,
        standstill: Standstill,
    ) -> None:
        self._channel = channel
        self._admission = admission
        self._groups_per_batch = groups_per_batch
        self._metrics = metrics
        self._standstill = standstill
        self._news = asyncio.Event()
        self.announced = Announced()
        self.finished = asyncio.Event()
        """Set while the trainer's newest word is that it has finished."""

    async def catch_up(self) -> None:
        """Replays the trainer's events and takes over what an earlier collector of this run has published."""
        version = -1
        behind = True
        while behind:
            for event in await self._next_events():
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
                        self._standstill.trained(time.monotonic())
                    case Discarded(ordinal=ordinal, reason=reason):
                        logger.warning("the trainer refused a group", extra={"ordinal": ordinal, "reason": reason})
                        self._admission.discard(ordinal)
                    case Finished():
                        self.finished.set()
            changed(self._admission.version * self._groups_per_batch)

    async def verify(self, trajectories: tuple[Trajectory, ...]) -> None:
        """Returns when the trainer has announced the weights that sampled all tokens.

        A replica may get a version before the news of it comes here, so that is waited for. Raises MalformedRecordError
        when it does not come, or names another digest.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCEMENT_SECONDS):
                while self.announced.missing(trajectories) is not None:
                    await self._news.wait()
        self.announced.check(trajectories)

    async def reopen_lost(self) -> None:
        """Opens again what is accepted here and not in the queue any more: trimmed, deleted or evicted."""
        accepted = self._admission.accepted
        await self._reconcile()
        standing = await persist(partial(self._channel.queue.accepted, 0), None)
        for ordinal in sorted(accepted - standing):
            self._admission.discard(ordinal)

    async def _resume(self, version: int) -> None:
        """Starts over from a trainer at `version`, with what the queue holds."""
        first = version * self._groups_per_batch
        await self._reconcile()
        accepted = await persist(partial(self._channel.queue.accepted, first), None)
        self._admission.resume(version, accepted)
        self._metrics.version.set(version)
        logger.info("starts", extra={"version": version, "already_published": len(accepted)})

    async def _reconcile(self) -> None:
        if lost := await persist(self._channel.queue.reconcile, None):
            logger.warning("the queue has lost groups, they are sampled again", extra={"ordinals": sorted(lost)})

    async def _next_events(self) -> list[Event]:
        events = await persist(partial(self._channel.events.follow, EVENT_BLOCK_SECONDS), None)
        for event in events:
            if isinstance(event, VersionPublished | Resumed):
                self.announced.add(event.version, event.digest)
            self._standstill.moved(time.monotonic())
        self._news.set()
        self._news = asyncio.Event()
        return events
