"""Metrics of evaluation while training."""

from __future__ import annotations

from ais.contracts.evaluation.results import EvaluationResult
from ais.runtime.metrics.meter import Meter


class EvaluationMetrics:
    """The last evaluation's, and the best one."""

    def __init__(self, meter: Meter) -> None:
        self._reward = meter.gauge(
            "ais_evaluation_reward_mean",
            "Mean reward of the last evaluation while training.",
            "Falling while ais_reward_mean rises: the policy fits the training prompts, or games the verifier.",
            {"source": ()},
        )
        self._passes = meter.gauge(
            "ais_evaluation_pass_share",
            "pass@k of the last evaluation while training, by k.",
            "pass@1 rising while larger k fall: the policy narrows. Look at the entropy.",
            {"source": (), "k": ()},
        )
        self._step = meter.gauge(
            "ais_evaluation_step",
            "The step after which it was due.",
            "Far behind the newest step: evaluations take longer than evaluation.every_steps.",
        )
        self.best_step = meter.gauge(
            "ais_evaluation_best_step",
            "The best step by evaluation.metric.",
            "Long ago: nothing is gained any more. evaluation.patience ends such a run.",
        )

    def evaluated(self, result: EvaluationResult) -> None:
        """An evaluation has come in."""
        self._step.set(result.step)
        for score in result.sources:
            self._reward.labels(source=score.source).set(score.reward.mean)
            for k, estimate in score.passed.items():
                self._passes.labels(source=score.source, k=k).set(estimate.mean)
