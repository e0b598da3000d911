"""The trainer's loop: wait for the next batch, train it, have it told and committed.

Beside the optimizer it decides what must not be trained: a group that has killed trainers (`groups/quarantine.py`) is
refused, and a run whose batches cannot be trusted, one after the other, ends with the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from ais.runtime.process import UnavailableError
from ais.runtime.tasks import end_tasks
from ais.runtime.tracing.spans import Span
from ais.trainer.announcer import Announcer, TrainedStep
from ais.trainer.evaluations import Evaluations
from ais.trainer.groups.intake import Buffered, Intake
from ais.trainer.groups.quarantine import Quarantine
from ais.trainer.groups.reader import GroupReader
from ais.trainer.groups.stall_watch import StallWatch
from ais.trainer.groups.step_span import step_span
from ais.trainer.history.commits import Commits
from ais.trainer.learning.learner import StepOutcome
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.settings import Settings
from ais.trainer.start import Start

POISON = "it kills the trainer: trainers have died at its batch, and at this group alone"


class TrainingLoop:
    """Trains the run's steps in order. Owns the policy version's progress."""

    def __init__(
        self,
        settings: Settings,
        start: Start,
        intake: Intake,
        reader: GroupReader,
        commits: Commits,
        announcer: Announcer,
        stall: StallWatch,
        evaluations: Evaluations,
    ) -> None:
        self._settings = settings
        self._learner = start.learner
        self._snapshot = start.snapshot
        self._intake = intake
        self._reader = reader
        self._commits = commits
        self._announcer = announcer
        self._stall = stall
        self._evaluations = evaluations
        self._quarantine = Quarantine(settings.run.path)
        self._clock = PhaseClock()
        self._untrusted = 0
        """Batches in a row that were not trusted."""
        self._log_ratio: float | None = None
        """Mean |log-ratio| of the last batch, nats."""

    @property
    def version(self) -> int:
        """Version of the policy now."""
        return self._intake.version

    async def run(self, stop: asyncio.Event) -> bool:
        """Trains until the run's steps are done or `stop` is set, and commits what is trained. True: they are done.

        Raises UnavailableError when batch after batch could not be trusted.
        """
        await self._train(stop)
        await self._commit()
        await self._commits.finish()
        if self._untrusted >= self._settings.trainer.untrusted_batches:
            raise UnavailableError(self._distrust())
        return self.version == self._settings.run.steps or self._evaluations.in_vain.is_set()

    async def announce_again(self) -> None:
        """Has the collector look again at what the queue holds, from the version of now."""
        await self._announcer.all_told()
        await self._announcer.resumed(self._snapshot)

    async def conclude(self) -> Path:
        """Writes the run's final model, whose directory it returns, and says that nothing more is needed."""
        await self._announcer.all_told()
        path = await self._commits.conclude(self._snapshot, self._evaluations.verdict)
        await self._announcer.finished(self.version)
        return path

    async def _train(self, stop: asyncio.Event) -> None:
        self._clock.finish()
        every = self._settings.trainer.checkpoints.every_steps
        while self.version < self._settings.run.steps and self._untrusted < self._settings.trainer.untrusted_batches:
            with self._clock.phase("wait"):
                batch = await self._next_batch(stop)
            if batch is None:
                return
            with step_span(batch, self.version + 1) as traced:
                with self._quarantine.under_way(_entries(batch)):
                    groups = [item.group for item in batch]
                    outcome = await asyncio.to_thread(self._learner.step, groups, self._clock)
                self._trained(batch, outcome, traced)
            evaluated = self._settings.evaluation.is_due(self.version)
            if self.version % every == 0 or evaluated or self._commits.failed():
                await self._commit()

    def _trained(self, batch: list[Buffered], outcome: StepOutcome, traced: Span) -> None:
        self._intake.advance()
        self._commits.consumed(batch)
        self._snapshot = outcome.snapshot
        self._log_ratio = outcome.figures.log_ratio_abs_mean
        self._untrusted = 0 if outcome.figures.trusted else self._untrusted + 1
        step_seconds, phase_seconds = self._clock.finish()
        traced.tell(**{f"{phase}_seconds": seconds for phase, seconds in phase_seconds.items()})
        self._announcer.trained(
            TrainedStep(
                outcome=outcome,
                batch=batch,
                time=time.time(),
                unacknowledged=self._commits.unacknowledged,
                incarnation=self._commits.incarnation,
                step_seconds=step_seconds,
                phase_seconds=phase_seconds,
                traceparent=traced.traceparent,
            )
        )

    async def _commit(self) -> None:
        """Begins a checkpoint of what is trained."""
        await self._commits.begin(self._snapshot, self._announcer.all_told)

    async def _next_batch(self, stop: asyncio.Event) -> list[Buffered] | None:
        """Waits for the next batch that may be trained. None: asked to stop."""
        while await self._batch_arrived(stop):
            batch = self._intake.batch()
            entries = _entries(batch)
            if guilty := self._quarantine.guilty(entries):
                await self._reader.refuse(batch[entries.index(guilty)], "group", POISON)
                continue
            if self._quarantine.suspects(entries):
                for item in batch:
                    with self._quarantine.under_way(entries, alone=item.entry.entry_id):
                        await asyncio.to_thread(self._learner.rehearse, item.group)
            return self._intake.take()
        return None

    async def _batch_arrived(self, stop: asyncio.Event) -> bool:
        """Waits for the next batch. False: asked to stop, or going on is in vain."""
        if self._intake.complete():
            return not self._is_to_end(stop)
        endings = (stop.wait(), self._evaluations.in_vain.wait())
        waits = [asyncio.create_task(one) for one in (self._reader.batch_arrived(), *endings)]
        with self._stall.waiting():
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        await end_tasks(*waits)
        return not self._is_to_end(stop)

    def _is_to_end(self, stop: asyncio.Event) -> bool:
        return stop.is_set() or self._evaluations.in_vain.is_set()

    def _distrust(self) -> str:
        measured = "could not be measured" if self._log_ratio is None else f"is {self._log_ratio:.3g} nats a token"
        return (
            f"{self._untrusted} batches in a row were not trained, because they do not come from the policy that is "
            f"trained: the mean |log-ratio| {measured}, and correction.mixing.mismatch_limit allows "
            f"{self._settings.correction.mixing.mismatch_limit:g}. Do the replicas serve the weights, the tokenizer "
            "and the temperature that they say? A precision that is too coarse for the model does this as well. The "
            "batches are committed; trainer.untrusted_batches says how many may be left out in a row"
        )


def _entries(batch: Sequence[Buffered]) -> list[str]:
    return [item.entry.entry_id for item in batch]
