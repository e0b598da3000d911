"""Metrics of learning: rewards, responses, gradients."""

from __future__ import annotations

from ais.runtime.metrics.meter import Meter
from ais.trainer.metrics.numbers import number
from ais.trainer.record import StepRecord

FAILURES = ("overtime", "memory", "error", "no_reward", "left_processes", "died", "service", "other")


class LearningMetrics:
    """The newest batch's."""

    def __init__(self, meter: Meter) -> None:
        self._reward = meter.gauge(
            "ais_reward_mean",
            "Mean reward of the last batch's trajectories.",
            "Falling for long: a collapse. Resume from a checkpoint before it, with trainer.optimizer.pace = 'signal' "
            "or a lower learning rate.",
        )
        self._reward_spread = meter.gauge(
            "ais_reward_standard_deviation",
            "Standard deviation of the last batch's rewards.",
            "Near 0: all responses are worth the same, and nothing is learned.",
        )
        self._zero_variance = meter.gauge(
            "ais_zero_variance_groups_ratio",
            "Share of the last batch's groups whose rewards are all equal.",
            "Near 1: too hard, solved, or the verifier does not find answers. More samples a group, other prompts.",
        )
        self._judgements_failed = meter.counter(
            "ais_judgements_failed",
            "Judgements of trained responses that failed and left a score of 0.",
            "The collector's ais_collector_judgements_total has the component, its log the words.",
            {"outcome": FAILURES},
        )
        self._redrawn = meter.gauge(
            "ais_redrawn_groups_ratio",
            "Share of the last batch's groups that took the place of one whose rewards were all equal.",
            "Rising: fewer prompts teach anything. Refresh them.",
        )
        self._redrawn_sequences = meter.counter(
            "ais_redrawn_sequences",
            "Responses that were thrown away for the groups trained on.",
            "The price of dynamic sampling: compare it with the responses trained on.",
        )
        self._truncated = meter.gauge(
            "ais_truncated_responses_ratio",
            "Share of the last batch's responses cut off at max_new_tokens.",
            "Rising: answers grow beyond the limit and get no reward. Raise collector.sampling.max_new_tokens.",
        )
        self._length = meter.gauge(
            "ais_response_length_tokens",
            "Mean length of the last batch's responses.",
            "Growing without reward is padding; shrinking to nothing, a collapse. samples.jsonl shows which.",
        )
        self._entropy = meter.gauge(
            "ais_entropy_nats",
            "Mean entropy of the policy at the sampled tokens of the last batch.",
            "Falling towards 0: exploration ends. trainer.objective.entropy_coefficient (which needs "
            "trainer.optimizer.pace = 'constant'), a lower learning rate, clip-higher.",
        )
        self._reference_kl = meter.gauge(
            "ais_reference_kl_nats",
            "Mean divergence per token of the policy from the reference policy, by the estimator of "
            "trainer.objective.reference. NaN without a reference.",
            "Growing fast: raise the coefficient of trainer.objective.reference.",
        )
        self._bounded = meter.gauge(
            "ais_bounded_tokens_ratio",
            "Share of the last batch's tokens on which the objective's clip or mask acts.",
            "Large: updates run into the trust region. Fewer updates a batch, or a lower learning rate.",
        )
        self._loss = meter.gauge(
            "ais_loss",
            "Surrogate loss whose gradient was taken. Its level means little.",
            "NaN: an update was skipped, see ais_skipped_steps_total.",
        )
        self._gradient_norm = meter.gauge(
            "ais_gradient_norm",
            "Global gradient norm of the last step, before clipping.",
            "Exactly 0: everything is masked or clipped. Growing without end: lower the learning rate.",
        )
        self._learning_rate = meter.gauge(
            "ais_learning_rate",
            "Learning rate of the last step.",
            "Set by trainer.optimizer: its schedule and its pace.",
        )
        self._skipped = meter.counter(
            "ais_skipped_steps",
            "Optimizer updates left out, by the reason: not_finite (a loss or a gradient) or untrusted (the batch's "
            "mismatch means nothing).",
            "not_finite: look for NaN log-probs, extreme rewards, a learning rate that is too high. untrusted: "
            "replicas "
            "serve other weights than they say.",
            {"reason": ("not_finite", "untrusted")},
        )

    def record(self, record: StepRecord) -> None:
        """Shows a finished step."""
        self._reward.set(record.reward_mean)
        self._reward_spread.set(record.reward_std)
        self._zero_variance.set(record.zero_variance_share)
        for outcome, count in record.judgements_failed.items():
            self._judgements_failed.labels(outcome if outcome in FAILURES else "other").inc(count)
        self._redrawn.set(record.redrawn_share)
        self._redrawn_sequences.inc(record.redrawn_sequences)
        self._truncated.set(record.truncated_share)
        self._length.set(record.response_length_mean)
        self._entropy.set(number(record.entropy))
        self._reference_kl.set(number(record.reference_kl))
        self._bounded.set(number(record.bounded_share))
        self._loss.set(number(record.loss))
        self._gradient_norm.set(number(record.gradient_norm))
        self._learning_rate.set(record.learning_rate)
        # Nothing measured is not trusted either: then what was not finite is the reason.
        untrusted = not record.trusted and record.log_ratio_abs_mean is not None
        self._skipped.labels("untrusted" if untrusted else "not_finite").inc(record.skipped_updates)
