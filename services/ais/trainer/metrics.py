"""What the trainer tells Prometheus. Units are in the names; gauges describe the newest step."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from ais.contracts.evaluation.results import EvaluationResult
from ais.contracts.limits import field_label
from ais.runtime.metrics import Meter
from ais.trainer.record import StepRecord
from ais_core.plan import CONCERNS

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
STALENESS_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 16)


class TrainerMetrics:
    """All metrics of one trainer, on its own registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        meter = Meter(registry)
        # Evaluation while training.
        self._evaluated_reward = meter.gauge(
            "ais_evaluation_reward_mean", "Mean reward of the last evaluation while training.", ["source"]
        )
        self._evaluated_passes = meter.gauge(
            "ais_evaluation_pass_share", "pass@k of the last evaluation while training, by k.", ["source", "k"]
        )
        self._evaluated_step = meter.gauge("ais_evaluation_step", "The step after which it was due.")
        self.best_step = meter.gauge("ais_evaluation_best_step", "The best step by evaluation.metric.")
        # The correction.
        self._alpha = meter.gauge(
            "ais_mixing_coefficient",
            "AIS mixing coefficient of the last step: 0 is the uncorrected gradient, 1 the fully weighted one. NaN for "
            "corrections that do not mix.",
        )
        self._weight_mean = meter.gauge(
            "ais_mixed_weight_mean", "Mean of the mixed weights: the size of the step relative to an uncorrected one."
        )
        self._weighted_share = meter.gauge(
            "ais_weighted_gradient_share",
            "The part of the mixed weights that is importance-weighted. Near 0 nothing is corrected, whatever the "
            "mixing coefficient says.",
        )
        self._weight_slope = meter.gauge(
            "ais_weight_slope",
            "Response of a token's weight to its own importance ratio, both in logarithms: 0 does not look at it.",
        )
        self._effective_sequences = meter.gauge(
            "ais_effective_sequences", "How many sequences carry the batch under the raw importance weights."
        )
        self._limited_share = meter.gauge(
            "ais_limited_weight_share",
            "Share of the tokens whose raw importance weight is beyond the exponent limit, where it is no evidence.",
        )
        self._concerns = meter.gauge(
            "ais_correction_concern",
            "1 where the last step's correction gives reason for concern. mismatch_limit: ratios mean nothing; "
            "exponent_limit: most weights are no evidence; uncorrected: severe mismatch, practically no correction.",
            ["concern"],
        )
        for concern in CONCERNS:
            self._concerns.labels(concern=concern).set(0)
        self._ess_ratio = meter.gauge(
            "ais_effective_sample_size_ratio",
            "Effective sample size of the tokens' importance weights as a share of the tokens; 1 means that all tokens "
            "count alike. raw: the ratios; applied: the weights that multiplied the advantages.",
            ["weights"],
        )
        self._log_ratio = meter.gauge(
            "ais_log_ratio_abs_mean",
            "Mean absolute difference of the trainer's and the rollout's log-probs of the sampled tokens, nats.",
        )
        self._ratio_cv = meter.gauge(
            "ais_ratio_coefficient_of_variation", "Standard deviation of the raw importance ratios by their mean."
        )
        self._kl = meter.gauge(
            "ais_kl_divergence",
            "Estimated KL divergence of rollout policy and trainer policy per token, nats. "
            "k1 is unbiased and noisy, k3 is never negative.",
            ["estimator"],
        )
        # Learning.
        self._reward = meter.gauge("ais_reward_mean", "Mean reward of the last batch's trajectories.")
        self._zero_variance = meter.gauge(
            "ais_zero_variance_groups_ratio", "Share of the last batch's groups whose rewards are all equal."
        )
        self._judgements_failed = meter.counter(
            "ais_judgements_failed", "Judgements of trained responses that failed and left a score of 0.", ["outcome"]
        )
        self._redrawn = meter.gauge(
            "ais_redrawn_groups_ratio",
            "Share of the last batch's groups that took the place of one whose rewards were all equal.",
        )
        self._redrawn_sequences = meter.counter(
            "ais_redrawn_sequences", "Responses that were thrown away for the groups trained on."
        )
        self._truncated = meter.gauge(
            "ais_truncated_responses_ratio", "Share of the last batch's responses cut off at max_new_tokens."
        )
        self._entropy = meter.gauge(
            "ais_entropy_nats", "Mean entropy of the policy at the sampled tokens of the last batch."
        )
        self._reference_kl = meter.gauge(
            "ais_reference_kl_nats",
            "Mean divergence per token of the policy from the reference policy, by the estimator of "
            "trainer.objective.reference. NaN without a reference.",
        )
        self._bounded = meter.gauge(
            "ais_bounded_tokens_ratio", "Share of the last batch's tokens on which the objective's clip or mask acts."
        )
        self._gradient_norm = meter.gauge(
            "ais_gradient_norm", "Global gradient norm of the last step, before clipping."
        )
        self._learning_rate = meter.gauge("ais_learning_rate", "Learning rate of the last step.")
        self._skipped = meter.counter(
            "ais_skipped_steps",
            "Optimizer updates left out because a loss or a gradient was not finite, or the batch was not trusted.",
        )
        self._staleness = meter.histogram(
            "ais_staleness_versions",
            "Policy versions between the oldest token of a trajectory and the policy trained on it.",
            buckets=STALENESS_BUCKETS,
        )
        # Progress.
        self.policy_version = meter.gauge("ais_policy_version", "Version of the policy: batches trained.")
        self._steps = meter.counter("ais_trainer_steps", "Batches trained, those with a skipped update included.")
        self._tokens = meter.counter("ais_trainer_tokens", "Response tokens trained on.")
        self._phases = meter.histogram(
            "ais_trainer_phase_seconds", "Seconds of a step spent in each phase.", ["phase"], buckets=SECONDS_BUCKETS
        )
        self.waiting_seconds = meter.gauge(
            "ais_trainer_waiting_seconds", "How long the next batch has been waited for; 0 while one is trained."
        )
        self.warnings = meter.counter(
            "ais_trainer_warnings",
            "Warnings that a person should see, by what they are about; warnings.jsonl of the run has their words.",
            ["kind"],
        )
        # Durability.
        self.committed_version = meter.gauge(
            "ais_trainer_committed_version", "Policy version of the newest checkpoint: where training would resume."
        )
        self.commit_seconds = meter.histogram(
            "ais_trainer_commit_seconds",
            "Seconds from the copy of the training state to the acknowledgement, most of them beside training.",
            buckets=SECONDS_BUCKETS,
        )
        self.incarnation = meter.gauge(
            "ais_trainer_incarnation", "How many trainers this run has had, this one included."
        )
        # The queue.
        self._queue_depth = meter.gauge("ais_queue_depth_groups", "Groups published and not yet trained on.")
        self._discarded = meter.counter(
            "ais_groups_discarded",
            "Groups refused and sent to the dead letters, by the field that was wrong.",
            ["field"],
        )
        self.duplicates = meter.counter("ais_groups_duplicate", "Groups whose ordinal had been received already.")
        # The weights.
        self.pushes = meter.counter(
            "ais_weight_pushes",
            "Uploads of the weights to a replica: applied, superseded (it serves a newer version), refused (4xx), "
            "failed (no connection, deadline or 5xx; tried again), rebased (it lacked the base of a delta, or "
            "cannot take a quantised form; the full version or BF16 follows).",
            ["outcome"],
        )
        self.push_seconds = meter.histogram(
            "ais_weight_push_seconds",
            "Seconds of one successful upload, until the replica serves it.",
            buckets=SECONDS_BUCKETS,
        )
        self.push_bytes = meter.counter(
            "ais_weight_push_bytes",
            "Bytes of weights sent, by encoding: full, delta, adapter. Not what replicas relay.",
            ["encoding"],
        )
        for encoding in ("full", "delta", "adapter"):
            self.push_bytes.labels(encoding=encoding)
        self.set_aside = meter.gauge(
            "ais_weight_replicas_set_aside", "Replicas whose last upload failed or came too late; tried again."
        )
        self.refused_by_all = meter.gauge(
            "ais_weight_version_refused_by_all",
            "How often every replica has refused the newest version; the run ends at trainer.push.refusals.",
        )
        self.delta_ratio = meter.gauge(
            "ais_weight_delta_ratio", "Bytes of the last delta by those of the version. NaN: none was made yet."
        )
        self.delta_ratio.set(float("nan"))
        self.form_seconds = meter.histogram(
            "ais_weight_form_seconds", "Seconds of quantising one version, beside training.", buckets=SECONDS_BUCKETS
        )
        self.delta_seconds = meter.histogram(
            "ais_weight_delta_seconds",
            "Seconds of computing and proving one delta, beside training.",
            buckets=SECONDS_BUCKETS,
        )

    def count_discarded(self, field: str) -> None:
        """Counts a refused group by the label of the `field` it was refused for."""
        self._discarded.labels(field=field_label(field)).inc()

    def evaluated(self, result: EvaluationResult) -> None:
        """An evaluation has come in."""
        self._evaluated_step.set(result.step)
        for score in result.sources:
            self._evaluated_reward.labels(source=score.source).set(score.reward.mean)
            for k, estimate in score.passed.items():
                self._evaluated_passes.labels(source=score.source, k=k).set(estimate.mean)

    def record(self, record: StepRecord, staleness: Sequence[int]) -> None:
        """Shows a finished step; `staleness` has one value a trajectory. A statistic that is None shows as NaN."""
        self._alpha.set(_number(record.alpha))
        self._weight_mean.set(_number(record.weight_mean))
        self._weighted_share.set(_number(record.weighted_share))
        self._weight_slope.set(_number(record.weight_slope))
        self._effective_sequences.set(_number(record.effective_sequences))
        self._limited_share.set(_number(record.limited_share))
        for concern in CONCERNS:
            self._concerns.labels(concern=concern).set(concern in record.concerns)
        self._ess_ratio.labels(weights="raw").set(_number(record.ess_ratio_raw))
        self._ess_ratio.labels(weights="applied").set(_number(record.ess_ratio_applied))
        self._log_ratio.set(_number(record.log_ratio_abs_mean))
        self._ratio_cv.set(_number(record.ratio_cv))
        self._kl.labels(estimator="k1").set(_number(record.kl_k1))
        self._kl.labels(estimator="k3").set(_number(record.kl_k3))
        self._reward.set(record.reward_mean)
        self._zero_variance.set(record.zero_variance_share)
        for outcome, count in record.judgements_failed.items():
            self._judgements_failed.labels(outcome=outcome).inc(count)
        self._redrawn.set(record.redrawn_share)
        self._redrawn_sequences.inc(record.redrawn_sequences)
        self._truncated.set(record.truncated_share)
        self._entropy.set(_number(record.entropy))
        self._reference_kl.set(_number(record.reference_kl))
        self._bounded.set(_number(record.bounded_share))
        self._gradient_norm.set(_number(record.gradient_norm))
        self._learning_rate.set(record.learning_rate)
        self._skipped.inc(record.skipped_updates)
        for versions in staleness:
            self._staleness.observe(versions)
        self.policy_version.set(record.version)
        self._steps.inc()
        self._tokens.inc(record.tokens)
        for phase, seconds in record.phase_seconds.items():
            self._phases.labels(phase=phase).observe(seconds)
        self._queue_depth.set(record.queue_depth)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
