"""Tells the world about each step, in order, while the next one is waited for or trained already.

Replicas are offered the version, the collector learns of it by an event, and the step gets its record, samples, metrics
and warnings.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ais.contracts.events import Finished, Resumed, TrainerEvents, VersionPublished
from ais.contracts.queue import TrajectoryQueue
from ais.runtime.network.patience import persist
from ais.trainer import group_log, record
from ais.trainer.groups.intake import Buffered
from ais.trainer.learning.learner import StepOutcome
from ais.trainer.learning.vital_signs import Vitals, VitalSigns
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.mismatch import LOG_RATIO_BOUNDS
from ais.trainer.record import StepRecord
from ais.trainer.reward_figures import reward_figures
from ais.trainer.samples import SampleLog, decoder
from ais.trainer.settings import Settings
from ais.trainer.warning_log import WarningLog
from ais.trainer.weights.fleet_file import FleetFile
from ais.trainer.weights.publisher import WeightPublisher
from ais.trainer.weights.snapshot import Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedStep:
    """A step that is done and not yet told."""

    outcome: StepOutcome
    batch: list[Buffered]
    time: float
    """Unix time at its end, seconds."""
    unacknowledged: int
    """Groups trained and not yet acknowledged, this batch included: the stream still holds them."""
    incarnation: int
    step_seconds: float
    phase_seconds: dict[str, float]
    traceparent: str = ""
    """The step's span; empty where traces are off."""

    def record(self, stream_length: int, replicas: int) -> StepRecord:
        groups = [item.group for item in self.batch]
        return StepRecord(
            **vars(self.outcome.figures),
            **vars(reward_figures(groups)),
            log_ratio_counts=self.outcome.mismatch.log_ratios.by_bound(LOG_RATIO_BOUNDS),
            time=self.time,
            digest=self.outcome.snapshot.digest,
            step_seconds=self.step_seconds,
            phase_seconds=self.phase_seconds,
            tokens_per_second=self.outcome.figures.tokens / self.step_seconds,
            queue_depth=max(0, stream_length - self.unacknowledged),
            replicas=replicas,
            ordinals=[group.ordinal for group in groups],
            group_ids=[group.group_id for group in groups],
            incarnation=self.incarnation,
        )


class Announcer:
    """Tells the versions and steps of one trainer."""

    def __init__(
        self,
        settings: Settings,
        events: TrainerEvents,
        queue: TrajectoryQueue,
        publisher: WeightPublisher,
        metrics: TrainerMetrics,
        warnings: WarningLog,
        fleet: FleetFile,
    ) -> None:
        self._fleet = fleet
        self._run = settings.run
        self._patience = settings.trainer.redis_patience_seconds
        self._events = events
        self._queue = queue
        self._publisher = publisher
        self._metrics = metrics
        self._warnings = warnings
        self._samples = SampleLog(self._run.path, decoder(self._run.model), settings.trainer.samples_per_step)
        self._vital_signs = _vital_signs_so_far(self._run.path)
        self._steps: asyncio.Queue[TrainedStep] = asyncio.Queue()

    async def resumed(self, snapshot: Snapshot) -> None:
        """Training begins at this version."""
        self._offer(snapshot)
        await self._publish(Resumed(snapshot.version, snapshot.digest))

    def trained(self, step: TrainedStep) -> None:
        """Returns at once; `run` tells the step."""
        self._steps.put_nowait(step)

    async def all_told(self) -> None:
        """Returns when every step so far is told and recorded."""
        await self._steps.join()

    async def finished(self, version: int) -> None:
        """The run's last version is trained and saved."""
        await self._publish(Finished(version))

    async def run(self) -> None:
        """Tells steps until cancelled."""
        while True:
            step = await self._steps.get()
            snapshot = step.outcome.snapshot
            self._offer(snapshot, step.traceparent)
            await self._publish(VersionPublished(snapshot.version, snapshot.digest))
            self._record(step, await persist(self._queue.depth, self._patience))
            self._steps.task_done()

    def _record(self, step: TrainedStep, stream_length: int) -> None:
        """For whoever watches: nothing is trained by it."""
        line = step.record(stream_length, self._publisher.live_replicas)
        record.append(self._run.path, line)
        group_log.append(self._run.path, line.version, line.incarnation, step.batch)
        self._samples.append(line.step, [item.group for item in step.batch], step.outcome.mismatch.by_token)
        self._metrics.record(line, step.outcome.staleness)
        self._metrics.correction.distributions(step.outcome.mismatch)
        self._fleet.measured(step.outcome.mismatch.by_replica)
        for warned in self._vital_signs.add(Vitals.of(vars(line))):
            self._warnings.tell(warned, line.version)

    def _offer(self, snapshot: Snapshot, traceparent: str = "") -> None:
        """Brings replicas up in the background."""
        self._metrics.progress.at(snapshot.version)
        self._publisher.offer(snapshot, traceparent)

    async def _publish(self, event: VersionPublished | Resumed | Finished) -> None:
        """Lets the collector know what it may start."""
        await persist(partial(self._events.publish, event), self._patience)


def _vital_signs_so_far(directory: Path) -> VitalSigns:
    """With the steps that trainers before this one have recorded, whose warnings have been told."""
    signs = VitalSigns()
    file = directory / record.STEPS_FILE
    if file.exists():
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                signs.add(Vitals.of(json.loads(line)))
    return signs
