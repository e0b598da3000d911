"""What is plotted of a run, and in which words: the catalogue of the console's page and of the report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Form(StrEnum):
    """How the quantities of a plot are drawn."""

    LINES = "lines"
    AREAS = "areas"
    """Each stacked on those before it."""
    BARS = "bars"
    """A bar for each quantity of one step: where the pointer is on the page; a report has none of these."""


@dataclass(frozen=True)
class Curve:
    """A quantity of `steps.jsonl`."""

    key: str
    label: str


@dataclass(frozen=True)
class Threshold:
    """A dashed line at a value that the run was set to."""

    setting: str
    label: str
    more: float = 0.0
    """Added to the setting."""


@dataclass(frozen=True)
class Plot:
    """One plot over the steps of a run."""

    title: str
    caption: str
    """How to read it."""
    curves: tuple[Curve, ...] = ()
    prefix: str = ""
    """Instead of `curves`: every quantity whose name begins so, with the rest of its name as its label."""
    several: bool = False
    """Only where there are two quantities or more."""
    unit: str = ""
    form: Form = Form.LINES
    thresholds: tuple[Threshold, ...] = ()
    scores: bool = False
    """With the scores on held-out prompts as points."""
    share: bool = False
    """Shows all of 0 to 1 where every value lies there."""
    from_zero: bool = False
    counted: bool = False
    """Only whole numbers mean anything."""
    absent_is_zero: bool = False
    """A step that lacks a quantity had none of it."""
    wide: bool = False
    """Takes a row of the page for itself."""


@dataclass(frozen=True)
class Section:
    """Plots about one question."""

    name: str
    title: str
    plots: tuple[Plot, ...]


def _curves(**labels: str) -> tuple[Curve, ...]:
    return tuple(Curve(key, label) for key, label in labels.items())


LEARNING = Section(
    "learning",
    "Learning",
    (
        Plot(
            "Reward",
            "Mean reward of the batches, and of held-out prompts with 95% intervals: of the BF16 policy and of the "
            "same policy in the number formats it is sampled in. Correction trades one against the other.",
            _curves(reward_mean="training batches, as sampled"),
            scores=True,
            share=True,
            wide=True,
        ),
        Plot(
            "Components of the reward",
            "Mean score of each named component over the batch, before its weight. The reward is their weighted sum.",
            prefix="reward_components.",
            several=True,
        ),
        Plot(
            "Failed judgements",
            "Responses of each batch that a verifier could not judge, by reason; each counts as a score of 0.",
            prefix="judgements_failed.",
            unit="responses",
            from_zero=True,
            counted=True,
            absent_is_zero=True,
        ),
    ),
)

MISMATCH = Section(
    "mismatch",
    "Mismatch and its correction",
    (
        Plot(
            "Mixing coefficient alpha",
            "0: the gradient is not corrected for the mismatch of rollout and trainer; 1: it is fully "
            "importance-weighted. Alpha is the product of its three factors and of alpha_max.",
            _curves(alpha="alpha", severity="severity", reliability="reliability", amplification="amplification"),
            share=True,
            wide=True,
        ),
        Plot(
            "Divergence: mean |log-ratio|",
            "How far the log-probs of rollout and trainer are apart on a sampled token.",
            _curves(log_ratio_abs_mean="mean |log-ratio|"),
            unit="nats",
            thresholds=(
                Threshold("correction.mixing.severity_scale", "severity is one half"),
                Threshold("correction.mixing.mismatch_limit", "limit of trust"),
            ),
            from_zero=True,
        ),
        Plot(
            "Reliability: effective sample",
            "Share of the samples that the importance weights leave effective; 1 is no mismatch.",
            _curves(
                ess_ratio_raw="token, raw",
                ess_ratio_applied="token, applied",
                sequence_ess_ratio_raw="sequence, raw",
                sequence_ess_ratio_applied="sequence, applied",
            ),
            thresholds=(Threshold("correction.mixing.effective_sample_floor", "floor of the applied weights"),),
            share=True,
        ),
        Plot(
            "Amplification: effective sequences",
            "How many sequences carry the batch under the raw weights; 1 is a single one.",
            _curves(effective_sequences="effective sequences", trajectories="responses in the batch"),
            thresholds=(Threshold("correction.mixing.amplification_batch", "amplification is one half", 1.0),),
            from_zero=True,
        ),
        Plot(
            "Log-ratios of the tokens",
            "Tokens of the step under the pointer, or of the last one, by log-ratio of trainer to rollout.",
            prefix="log_ratio_counts.",
            form=Form.BARS,
        ),
        Plot(
            "Variation of the ratios",
            "Coefficient of variation: what variance full weighting would add.",
            _curves(ratio_cv="tokens", weight_cv="weights at the correction's level"),
            from_zero=True,
        ),
        Plot(
            "KL divergence, rollout from trainer",
            "Estimates of KL(behaviour || proximal): k1 is unbiased and noisy, k3 is never negative.",
            _curves(kl_k1="k1", kl_k3="k3"),
            unit="nats",
        ),
        Plot(
            "What the weights do",
            "Weighted share: the part of the gradient that is importance-weighted, whatever alpha says. Slope: how "
            "much a token's weight follows its own ratio. Mean weight: the size of the step against an uncorrected "
            "one.",
            _curves(weighted_share="weighted share", weight_slope="slope", weight_mean="mean weight"),
            from_zero=True,
        ),
    ),
)

POLICY = Section(
    "policy",
    "Policy",
    (
        Plot(
            "Entropy",
            "At the sampled positions. A policy without entropy explores no more.",
            _curves(entropy="entropy"),
            unit="nats",
            from_zero=True,
        ),
        Plot(
            "Batches that teach little",
            "Groups whose responses all have the same reward give no gradient; responses that are cut off never "
            "finish.",
            _curves(zero_variance_share="groups with equal rewards", truncated_share="responses cut off"),
            share=True,
        ),
        Plot(
            "Response length",
            "Mean over the batch.",
            _curves(response_length_mean="mean length"),
            unit="tokens",
            from_zero=True,
        ),
        Plot("Gradient norm", "Before clipping.", _curves(gradient_norm="gradient norm"), from_zero=True),
        Plot("Learning rate", "Of the step's updates.", _curves(learning_rate="learning rate"), from_zero=True),
        Plot(
            "Divergence from the reference",
            "Where the objective has a reference policy.",
            _curves(reference_kl="KL"),
            unit="nats",
        ),
    ),
)

MACHINE = Section(
    "machine",
    "Machine",
    (
        Plot(
            "Where a step's time goes",
            "Wait is time without enough groups: the rollouts are slower than the trainer.",
            prefix="phase_seconds.",
            unit="s",
            form=Form.AREAS,
            from_zero=True,
        ),
        Plot(
            "Throughput",
            "Response tokens trained on, by the time of the whole step.",
            _curves(tokens_per_second="tokens/s"),
            unit="tokens/s",
            from_zero=True,
        ),
        Plot(
            "Staleness",
            "Versions between the policy that sampled a response and the policy it trained.",
            _curves(staleness_mean="mean", staleness_max="most"),
            unit="versions",
            from_zero=True,
            counted=True,
        ),
        Plot(
            "Queue and fleet",
            "Groups that wait for the trainer, and live replicas, after each batch.",
            _curves(queue_depth="groups waiting", replicas="live replicas"),
            from_zero=True,
            counted=True,
        ),
    ),
)

SECTIONS = (LEARNING, MISMATCH, POLICY, MACHINE)
PLOTS = tuple(plot for section in SECTIONS for plot in section.plots)
MOST_CURVES = 10
"""As many colours as the page and the report have."""
NEAR = 3.0
"""A threshold beyond so many times the largest value is not drawn: the curve would lie flat at the bottom."""
