"""All metrics of one trainer, on its own registry."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from ais.runtime.metrics.meter import Meter
from ais.trainer.metrics.correction import CorrectionMetrics
from ais.trainer.metrics.evaluation import EvaluationMetrics
from ais.trainer.metrics.learning import LearningMetrics
from ais.trainer.metrics.progress import ProgressMetrics
from ais.trainer.metrics.queue import QueueMetrics
from ais.trainer.metrics.weights import WeightMetrics
from ais.trainer.record import StepRecord


class TrainerMetrics:
    """The parts, and what concerns several of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        meter = Meter(registry)
        self.described = meter.described
        self.progress = ProgressMetrics(meter)
        self.correction = CorrectionMetrics(meter)
        self.learning = LearningMetrics(meter)
        self.evaluation = EvaluationMetrics(meter)
        self.queue = QueueMetrics(meter)
        self.weights = WeightMetrics(meter)

    def record(self, record: StepRecord, staleness: Sequence[int]) -> None:
        """Shows a finished step; `staleness` has one value a trajectory. A statistic that is None shows as NaN."""
        self.correction.record(record)
        self.learning.record(record)
        self.queue.record(record, staleness)
        self.progress.record(record)
