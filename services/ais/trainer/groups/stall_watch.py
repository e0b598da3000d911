"""Notices that no batch comes, says why, and has the collector make again what the queue has lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRegistry
from ais.runtime.network.patience import persist
from ais.trainer.groups.intake import Intake
from ais.trainer.groups.stall import Wait, explanation
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.settings import Settings
from ais.trainer.warning_log import Warned, WarningLog

LOOK_SECONDS = 1.0
"""How often the watch looks at the clock."""
LOUDER = 4.0
"""A stall is told again when it has lasted this many times longer than when it was told."""

logger = logging.getLogger(__name__)


@dataclass
class _Stall:
    """A wait that goes on."""

    since: float
    """Seconds of the monotonic clock."""
    told_at: float
    """Length of the wait, seconds, at which it is told next."""
    reason: str | None = None


class StallWatch:
    """Watches the waits of one trainer."""

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        queue: TrajectoryQueue,
        registry: ReplicaRegistry,
        metrics: TrainerMetrics,
        warnings: WarningLog,
    ) -> None:
        self._run = settings.run
        self._patience = settings.trainer.redis_patience_seconds
        self._stall_seconds = settings.trainer.stall_seconds
        self._intake = intake
        self._queue = queue
        self._registry = registry
        self._metrics = metrics
        self._warnings = warnings
        self._stall: _Stall | None = None

    @property
    def reason(self) -> str | None:
        """Why the trainer has nothing to do; None while batches come."""
        return self._stall.reason if self._stall else None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The trainer waits for its next batch as long as this is open."""
        self._stall = _Stall(time.monotonic(), self._stall_seconds)
        try:
            yield
        finally:
            if self._stall.reason is not None:
                logger.info("batches come again", extra={"version": self._intake.version})
            self._stall = None
            self._metrics.progress.waiting_seconds.set(0.0)

    async def run(self, announce_again: Callable[[], Awaitable[None]]) -> None:
        """Watches until cancelled. `announce_again` makes the collector look at what the queue holds."""
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self._stall_seconds / 4))
            if (stall := self._stall) is None:
                continue
            seconds = time.monotonic() - stall.since
            self._metrics.progress.waiting_seconds.set(seconds)
            if seconds >= stall.told_at:
                await self._tell(stall, seconds, announce_again)

    async def _tell(self, stall: _Stall, seconds: float, announce_again: Callable[[], Awaitable[None]]) -> None:
        lost = await persist(self._queue.reconcile, self._patience)
        if lost:
            await announce_again()
        replicas = await persist(self._registry.replicas, self._patience)
        batch = self._intake.version
        stall.told_at = LOUDER * seconds
        stall.reason = explanation(
            Wait(
                seconds=seconds,
                missing=self._intake.missing(),
                lost=sorted(lost),
                needed_version=max(0, batch - self._run.max_staleness),
                serving=[replica.policy_version for replica in replicas if replica.ready],
                starting=sum(not replica.ready for replica in replicas),
            )
        )
        if self._stall is stall:  # else the batch has come meanwhile
            self._warnings.tell(Warned("stalled", stall.reason), batch)
