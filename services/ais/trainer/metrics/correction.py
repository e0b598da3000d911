"""Metrics of the mismatch and its correction."""

from __future__ import annotations

from ais.runtime.metrics.meter import Meter
from ais.trainer.metrics.numbers import number
from ais.trainer.mismatch import LOG_RATIO_BOUNDS, WEIGHT_BOUNDS, Mismatch
from ais.trainer.record import StepRecord
from ais_core.plan import CONCERNS

FACTORS = ("severity", "reliability", "amplification")
REPLICA = {"replica": (), "precision": ()}


class CorrectionMetrics:
    """The newest batch's."""

    def __init__(self, meter: Meter) -> None:
        self._alpha = meter.gauge(
            "ais_mixing_coefficient",
            "AIS mixing coefficient of the last step: 0 is the uncorrected gradient, 1 the fully weighted one. NaN for "
            "corrections that do not mix.",
            "Pinned at 0 or 1: its factors say which diagnostic decides. See ais_mixing_factor.",
        )
        self._factors = meter.gauge(
            "ais_mixing_factor",
            "Factors of the mixing coefficient, each from 0 to 1. severity: from the mean |log ratio|; "
            "reliability: from "
            "the effective sample size of the truncated weights; amplification: from the number of sequences that "
            "carry the batch. NaN for corrections that do not mix.",
            "The smallest one holds the coefficient down. severity 0: nothing to correct. amplification 0: one "
            "sequence "
            "carries the batch.",
            {"factor": FACTORS},
        )
        self._weight_mean = meter.gauge(
            "ais_mixed_weight_mean",
            "Mean of the mixed weights: the size of the step relative to an uncorrected one.",
            "Far from 1: the correction changes the learning rate. Look at the cap and at the mean log-ratio.",
        )
        self._weighted_share = meter.gauge(
            "ais_weighted_gradient_share",
            "The part of the mixed weights that is importance-weighted. Near 0 nothing is corrected, whatever the "
            "mixing coefficient says.",
            "Near 0 with a large mismatch: training is uncorrected. Shorter answers, or a finer format.",
        )
        self._weight_slope = meter.gauge(
            "ais_weight_slope",
            "Response of a token's weight to its own importance ratio, both in logarithms: 0 does not look at it.",
            "Near 0: weights are alike for all tokens. Another correction.level may see more.",
        )
        self._effective_sequences = meter.gauge(
            "ais_effective_sequences",
            "How many sequences carry the batch under the raw importance weights.",
            "Near 1: one response decides the gradient. Smaller learning rate, less staleness, a finer format.",
        )
        self._limited_share = meter.gauge(
            "ais_limited_weight_share",
            "Share of the tokens whose raw importance weight is beyond the exponent limit, where it is no evidence.",
            "Above 0: policies are very far apart, or answers too long for weights of whole sequences.",
        )
        self._concerns = meter.gauge(
            "ais_correction_concern",
            "1 where the last step's correction gives reason for concern. mismatch_limit: ratios mean nothing; "
            "exponent_limit: most weights are no evidence; uncorrected: severe mismatch, practically no correction; "
            "rejected: nearly all tokens are left out.",
            "mismatch_limit: replicas serve wrong weights or sample at another temperature. The others: "
            "docs/algorithm.md.",
            {"concern": tuple(CONCERNS)},
        )
        self._ess_ratio = meter.gauge(
            "ais_effective_sample_size_ratio",
            "Effective sample size of the tokens' importance weights as a share of the tokens; 1 means that all tokens "
            "count alike. raw: the ratios; applied: the weights that multiplied the advantages.",
            "raw falling: the mismatch grows, see ais_lag_log_ratio_abs_mean_nats for whether by staleness or by the "
            "number format. applied low as well: the cap does not hold it.",
            {"weights": ("raw", "applied")},
        )
        self._log_ratio = meter.gauge(
            "ais_log_ratio_abs_mean",
            "Mean absolute difference of the trainer's and the rollout's log-probs of the sampled tokens, nats.",
            "Growing: see it by lag and by replica. Beyond correction.mixing.mismatch_limit batches are not trained.",
        )
        self._ratio_cv = meter.gauge(
            "ais_ratio_coefficient_of_variation",
            "Standard deviation of the raw importance ratios by their mean.",
            "Above 1 a few tokens carry the batch: the cap decides what becomes of them.",
        )
        self._kl = meter.gauge(
            "ais_kl_divergence",
            "Estimated KL divergence of rollout policy and trainer policy per token, nats. "
            "k1 is unbiased and noisy, k3 is never negative.",
            "k1 well below 0 for long: samples do not come from the policy they claim, as with truncated sampling.",
            {"estimator": ("k1", "k3")},
        )
        self._masked = meter.gauge(
            "ais_masked_tokens_ratio",
            "Share of the tokens that rejections leave out of the gradient.",
            "Large: the bounds of the rejections are narrow for this mismatch, and data is wasted.",
        )
        self._capped = meter.gauge(
            "ais_capped_tokens_ratio",
            "Share of the tokens whose weight is at the cap, correction.cap.",
            "Large: the cap biases the gradient. Reduce the mismatch, or raise it at the price of variance.",
        )
        self._lag_log_ratio = meter.replaced_gauge(
            "ais_lag_log_ratio_abs_mean_nats",
            "Mean |log ratio| by version lag of the tokens; 8 stands for 8 and more. Lag 0 is the number format alone.",
            "Grows at lag 0: the rollout engine or its format. Grows with the lag only: staleness; lower "
            "run.max_staleness.",
            {"lag": ()},
        )
        self._lag_ess = meter.replaced_gauge(
            "ais_lag_effective_sample_size_ratio",
            "Effective sample size of the raw ratios by version lag of the tokens, as a share of those tokens.",
            "As ais_lag_log_ratio_abs_mean_nats.",
            {"lag": ()},
        )
        self._lag_tokens = meter.replaced_gauge(
            "ais_lag_tokens",
            "Tokens of the last batch by their version lag.",
            "All at high lags: replicas get their weights late.",
            {"lag": ()},
        )
        self._replica_log_ratio = meter.replaced_gauge(
            "ais_replica_log_ratio_abs_mean_nats",
            "Mean |log ratio| of the last batch's tokens by the replica that sampled them and its precision.",
            "One replica apart from others of its precision: its weights or its hardware. A BF16 replica in an FP8 "
            "fleet "
            "is the control: what is left there is staleness and another library's rounding.",
            REPLICA,
        )
        self._replica_ess = meter.replaced_gauge(
            "ais_replica_effective_sample_size_ratio",
            "Effective sample size of the raw ratios by replica and precision, as a share of the replica's tokens.",
            "As ais_replica_log_ratio_abs_mean_nats.",
            REPLICA,
        )
        self._replica_tokens = meter.replaced_gauge(
            "ais_replica_tokens",
            "Tokens of the last batch by the replica that sampled them and its precision.",
            "A replica with few: it is slow, rests after failures, or serves old weights.",
            REPLICA,
        )
        self._log_ratios = meter.bulk_histogram(
            "ais_token_log_ratio_nats",
            "Tokens trained on by their log-ratio (trainer minus rollout), nats. Not centred at 0: the sum is left "
            "out, "
            "as it may fall.",
            "A tail to one side: the rollout overrates or underrates what it samples. Two humps: two policies in "
            "one batch.",
            buckets=LOG_RATIO_BOUNDS,
        )
        self._weights = meter.bulk_histogram(
            "ais_importance_weight",
            "Tokens trained on by their importance weight. raw: the ratio; applied: what multiplied the advantage.",
            "raw far above the cap: see ais_capped_tokens_ratio. applied all in one bucket: nothing is corrected.",
            {"weights": ("raw", "applied")},
            buckets=WEIGHT_BOUNDS,
        )

    def record(self, record: StepRecord) -> None:
        """Shows a finished step."""
        self._alpha.set(number(record.alpha))
        for factor in FACTORS:
            self._factors.labels(factor).set(number(getattr(record, factor)))
        self._weight_mean.set(number(record.weight_mean))
        self._weighted_share.set(number(record.weighted_share))
        self._weight_slope.set(number(record.weight_slope))
        self._effective_sequences.set(number(record.effective_sequences))
        self._limited_share.set(number(record.limited_share))
        for concern in CONCERNS:
            self._concerns.labels(concern=concern).set(concern in record.concerns)
        self._ess_ratio.labels(weights="raw").set(number(record.ess_ratio_raw))
        self._ess_ratio.labels(weights="applied").set(number(record.ess_ratio_applied))
        self._log_ratio.set(number(record.log_ratio_abs_mean))
        self._ratio_cv.set(number(record.ratio_cv))
        self._kl.labels(estimator="k1").set(number(record.kl_k1))
        self._kl.labels(estimator="k3").set(number(record.kl_k3))

    def distributions(self, found: Mismatch) -> None:
        """Shows the same batch in more detail."""
        self._masked.set(number(None if found.kept_share is None else 1.0 - found.kept_share))
        self._capped.set(number(found.capped_share))
        lags = {(str(one.lag),): one for one in found.by_lag}
        self._lag_log_ratio.show({lag: one.mean_abs_log_ratio for lag, one in lags.items()})
        self._lag_ess.show({lag: one.ess_ratio for lag, one in lags.items()})
        self._lag_tokens.show({lag: one.tokens for lag, one in lags.items()})
        replicas = found.by_replica
        self._replica_log_ratio.show({name: one.log_ratio_abs_mean for name, one in replicas.items()})
        self._replica_ess.show({name: one.ess_ratio for name, one in replicas.items()})
        self._replica_tokens.show({name: one.tokens for name, one in replicas.items()})
        self._log_ratios.add(found.log_ratios.counts, found.log_ratios.total)
        self._weights.add(found.raw_weights.counts, found.raw_weights.total, "raw")
        self._weights.add(found.applied_weights.counts, found.applied_weights.total, "applied")
