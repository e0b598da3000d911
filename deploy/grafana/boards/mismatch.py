"""The mismatch, its causes and its correction."""

from __future__ import annotations

from boards.panels import Board, Panel, Query, Row
from boards.queries import of_run, q, rate, shares

MISMATCH = Board(
    "mismatch",
    "AIS: Mismatch and correction",
    "How far are the policy that samples and the one that trains apart, why, and what does the correction do?",
    [
        Row(
            "How bad is it?",
            [
                Panel(
                    "Effective sample size",
                    [q("ais_effective_sample_size_ratio", "{{weights}}")],
                    "percentunit",
                    "AisEffectiveSampleLow",
                    warn=0.5,
                    below=True,
                    maximum=1,
                ),
                Panel("Mean |log ratio|", [q("ais_log_ratio_abs_mean")], "short", "AisBatchesUntrusted", warn=1.0),
                Panel(
                    "Variation of the ratios",
                    [q("ais_ratio_coefficient_of_variation")],
                    "short",
                    "AisEffectiveSampleFalling",
                    warn=1.0,
                ),
                Panel("KL divergence", [q("ais_kl_divergence", "{{estimator}}")], "short", "AisEffectiveSampleFalling"),
                Panel("Concerns", [q("ais_correction_concern", "{{concern}}")], "short", "AisUncorrected", warn=1.0),
                Panel(
                    "Updates left out",
                    [rate("ais_skipped_steps_total", "reason", "{{reason}}")],
                    "ops",
                    "AisNotFinite",
                    warn=1e-9,
                ),
            ],
        ),
        Row(
            "Why: number format, staleness, or one replica?",
            [
                Panel(
                    "By version lag",
                    [q("ais_lag_log_ratio_abs_mean_nats", "lag {{lag}}")],
                    "short",
                    "AisMismatchAtLagZero",
                ),
                Panel(
                    "By precision",
                    [Query("precision:ais_log_ratio_abs_mean_nats:mean", "{{precision}}")],
                    "short",
                    "AisMismatchAtLagZero",
                    text="All replicas of a precision together. A BF16 replica is the control.",
                ),
                Panel(
                    "By replica",
                    [q("ais_replica_log_ratio_abs_mean_nats", "{{replica}}")],
                    "short",
                    "AisMismatchAtLagZero",
                ),
                Panel(
                    "Effective sample by lag",
                    [q("ais_lag_effective_sample_size_ratio", "lag {{lag}}")],
                    "percentunit",
                    "AisEffectiveSampleFalling",
                    maximum=1,
                ),
                Panel("Tokens by lag", [q("ais_lag_tokens", "lag {{lag}}")], "short", "AisReplicaBehind"),
                Panel(
                    "Codes that an update changes",
                    [q("ais_weight_changed_codes_ratio", "{{format}}")],
                    "percentunit",
                    "AisQuantisedPolicyStandsStill",
                    maximum=1,
                ),
                Panel(
                    "Tokens by log-ratio",
                    [shares("ais_token_log_ratio_nats")],
                    "percentunit",
                    "AisMismatchAtLagZero",
                    maximum=1,
                    width=12,
                ),
                Panel(
                    "Probe gap of its limit",
                    [
                        Query(of_run("instance:ais_rollout_probe_gap:share"), "{{instance}}"),
                    ],
                    "percentunit",
                    "AisProbeGapNearLimit",
                    warn=0.8,
                    text="At 100% a replica refuses new weights.",
                ),
            ],
        ),
        Row(
            "What does the correction do?",
            [
                Panel(
                    "Mixing coefficient and its factors",
                    [q("ais_mixing_coefficient", "alpha"), q("ais_mixing_factor", "{{factor}}")],
                    "short",
                    "AisAlphaPinned",
                    maximum=1,
                ),
                Panel(
                    "Weighted part of the gradient",
                    [q("ais_weighted_gradient_share", "share"), q("ais_weight_slope", "slope")],
                    "short",
                    "AisUncorrected",
                    maximum=1,
                ),
                Panel("Size of the step", [q("ais_mixed_weight_mean")], "short", "AisUncorrected"),
                Panel(
                    "Masked, capped, beyond the limit",
                    [
                        q("ais_masked_tokens_ratio", "masked"),
                        q("ais_capped_tokens_ratio", "capped"),
                        q("ais_limited_weight_share", "beyond the exponent limit"),
                    ],
                    "percentunit",
                    "AisEffectiveSampleLow",
                    maximum=1,
                ),
                Panel(
                    "Raw weights",
                    [shares("ais_importance_weight", 'weights="raw"')],
                    "percentunit",
                    "AisEffectiveSampleLow",
                    maximum=1,
                ),
                Panel(
                    "Applied weights",
                    [shares("ais_importance_weight", 'weights="applied"')],
                    "percentunit",
                    "AisEffectiveSampleLow",
                    maximum=1,
                ),
                Panel(
                    "Sequences that carry the batch",
                    [q("ais_effective_sequences")],
                    "short",
                    "AisUncorrected",
                    warn=2,
                    below=True,
                ),
            ],
        ),
    ],
)
