"""Takes the evaluations that the collector makes beside training: keeps them, finds the best step, ends a run in vain.

The files decide: what is best and what is in vain follows from `held_out.jsonl` alone, before and after a crash.
"""

from __future__ import annotations

import asyncio
import logging

from ais.contracts.evaluation.board import EvaluationBoard
from ais.contracts.evaluation.settings import EvaluationSettings
from ais.runtime.settings import RunSettings
from ais.trainer.history import evaluations
from ais.trainer.history.best import best_step, in_vain
from ais.trainer.history.checkpoint import CheckpointStore
from ais.trainer.metrics import TrainerMetrics

LOOK_SECONDS = 1.0
"""How often is looked for new results."""

logger = logging.getLogger(__name__)


class Evaluations:
    """The evaluations of one trainer's run."""

    def __init__(
        self,
        run: RunSettings,
        settings: EvaluationSettings,
        board: EvaluationBoard,
        store: CheckpointStore,
        metrics: TrainerMetrics,
    ) -> None:
        self._run = run
        self._settings = settings
        self._board = board
        self._store = store
        self._metrics = metrics
        self._values = evaluations.values(run.path, settings.metric)
        self.in_vain = asyncio.Event()
        """Set when the run has waited long enough for something better."""
        self._judge()

    @property
    def verdict(self) -> str:
        """Why the run ends before its last step; empty if it does not."""
        best = best_step(self._values)
        if best is None or not self.in_vain.is_set():
            return ""
        return (
            f"{in_vain(self._values)} evaluations in a row were not better than that of step {best}, whose "
            f"{self._settings.metric} is {self._values[best]:.4g} (evaluation.patience)"
        )

    async def forget_after(self, version: int) -> None:
        """Training begins at `version`: what comes after is trained and evaluated again."""
        if self._settings.every_steps:
            await self._board.forget_after(version)

    async def run(self) -> None:
        """Takes results until cancelled."""
        if self._settings.every_steps == 0:
            await asyncio.Event().wait()
        while True:
            await self.take()
            await asyncio.sleep(LOOK_SECONDS)

    async def take(self) -> None:
        """Takes what there is now."""
        last = max(self._values, default=-1)
        for step, result in (await self._board.results()).items():
            if step <= last:
                continue
            await asyncio.to_thread(evaluations.append, self._run.path, result)
            self._values[step] = result.value(self._settings.metric)
            self._metrics.evaluation.evaluated(result)
            scores = "; ".join(f"{score.source}: reward {score.reward}" for score in result.sources)
            logger.info("evaluated: %s", scores, extra={"step": step, "versions": result.last_version})
            self._judge()

    def _judge(self) -> None:
        best = best_step(self._values)
        self._store.keep_best(best, evaluated=max(self._values, default=-1))
        if best is not None:
            self._metrics.evaluation.best_step.set(best)
        if self._settings.patience and in_vain(self._values) >= self._settings.patience:
            self.in_vain.set()
