"""The plots of a report: which quantities of a run, on which scale, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ais.launcher.report.drawing import COLOURS, PLAIN, Kind, Scale, Series
from ais.launcher.report.results import BF16, COMPONENTS, Results


@dataclass(frozen=True)
class Plot:
    """One figure of the report."""

    title: str
    caption: str
    """How to read it."""
    series: Callable[[Results], Sequence[Series]]
    scale: Scale = PLAIN
    wide: bool = False
    """Takes a row of the page for itself."""


def _reward(results: Results) -> list[Series]:
    scored = [
        Series(
            "BF16 policy, held out" if precision == BF16 else "rollout policy, held out",
            [score.step for score in scores],
            [score.reward_mean for score in scores],
            Kind.POINTS,
            [score.reward_standard_error for score in scores],
        )
        for precision, scores in results.evaluations.items()
    ]
    sampled = Series("training batches (as sampled)", results.column("step"), results.column("reward_mean"))
    return [*scored, sampled]


def _curves(*curves: tuple[str, str]) -> Callable[[Results], list[Series]]:
    """Quantities of the steps, as pairs of key and label."""

    def series(results: Results) -> list[Series]:
        steps = results.column("step")
        return [Series(label, steps, results.column(key)) for key, label in curves]

    return series


def _components(results: Results) -> list[Series]:
    """As many as there are colours; the table of figures has all."""
    return _curves(*((key, key.removeprefix(COMPONENTS)) for key in results.components[: len(COLOURS)]))(results)


def _failures(results: Results) -> list[Series]:
    prefix, steps = "judgements_failed.", results.column("step")
    return [
        Series(key.removeprefix(prefix).replace("_", " "), steps, [float(one.get(key) or 0) for one in results.steps])
        for key in results.keys(prefix)
    ]


def _phases(results: Results) -> list[Series]:
    prefix = "phase_seconds."
    names = [key for key in (results.steps[-1] if results.steps else ()) if key.startswith(prefix)]
    steps = results.column("step")
    return [
        Series(
            name.removeprefix(prefix).replace("_", " "),
            steps,
            [1000 * value for value in results.column(name)],
            Kind.AREA,
        )
        for name in names
    ]


PLOTS = (
    Plot(
        "Reward",
        "Held-out points are the mean over prompts, with its standard error. The rollout policy is the trained one in "
        "the number formats it is sampled in: correction trades one curve against the other, so both are shown.",
        _reward,
        Scale(share=True),
        wide=True,
    ),
    Plot(
        "Components of the reward",
        "Mean score of each named component over the batch, before its weight. The reward is their weighted sum.",
        _components,
    ),
    Plot(
        "Failed judgements",
        "Responses of each batch that a verifier could not judge, by reason; each counts as a score of 0.",
        _failures,
        Scale("responses", from_zero=True, counted=True),
    ),
    Plot(
        "Mixing coefficient alpha",
        "0: the gradient is not corrected for the mismatch of rollout and trainer; 1: it is fully importance-weighted. "
        "Alpha is the product of its three factors and of alpha_max.",
        _curves(
            ("alpha", "alpha"),
            ("severity", "severity"),
            ("reliability", "reliability"),
            ("amplification", "amplification"),
        ),
        Scale(share=True),
    ),
    Plot(
        "What the weights do",
        "Weighted share: the part of the gradient that is importance-weighted, whatever alpha says. Slope: how much a "
        "token's weight follows its own ratio. Mean weight: the size of the step against an uncorrected one.",
        _curves(("weighted_share", "weighted share"), ("weight_slope", "slope"), ("weight_mean", "mean weight")),
        Scale(from_zero=True),
    ),
    Plot(
        "Effective sample size",
        "Share of the samples that the importance weights leave effective; 1 is no mismatch.",
        _curves(
            ("ess_ratio_raw", "token, raw"),
            ("ess_ratio_applied", "token, applied"),
            ("sequence_ess_ratio_raw", "sequence, raw"),
            ("sequence_ess_ratio_applied", "sequence, applied"),
        ),
    ),
    Plot(
        "Mean absolute log-ratio",
        "How far the log-probs of rollout and trainer are apart on a sampled token.",
        _curves(("log_ratio_abs_mean", "mean |log-ratio|")),
        Scale("nats", from_zero=True),
    ),
    Plot(
        "Coefficient of variation of the ratios",
        "Relative spread of the importance ratios: what variance full weighting would add.",
        _curves(("ratio_cv", "CV")),
        Scale(from_zero=True),
    ),
    Plot(
        "KL divergence, rollout from trainer",
        "Estimates of KL(behaviour || proximal): k1 is unbiased and noisy, k3 is never negative.",
        _curves(("kl_k1", "k1"), ("kl_k3", "k3")),
        Scale("nats"),
    ),
    Plot(
        "Throughput",
        "Response tokens trained on, by the time of the whole step.",
        _curves(("tokens_per_second", "tokens/s")),
        Scale("tokens/s", from_zero=True),
    ),
    Plot(
        "Where a step's time goes",
        "Wait is time without enough groups: the rollouts are slower than the trainer.",
        _phases,
        Scale("ms"),
    ),
    Plot(
        "Staleness",
        "Versions between the policy that sampled a trajectory and the policy it trained.",
        _curves(("staleness_mean", "mean"), ("staleness_max", "most")),
        Scale("versions", from_zero=True, counted=True),
    ),
    Plot(
        "Queue",
        "Groups waiting for the trainer after each batch.",
        _curves(("queue_depth", "groups")),
        Scale("groups", from_zero=True, counted=True),
    ),
    Plot(
        "Entropy of the policy",
        "At the sampled positions. A policy without entropy explores no more.",
        _curves(("entropy", "entropy")),
        Scale("nats", from_zero=True),
    ),
    Plot(
        "Batches that teach little",
        "Groups whose responses all have the same reward give no gradient; responses that are cut off never finish.",
        _curves(("zero_variance_share", "groups with equal rewards"), ("truncated_share", "responses cut off")),
        Scale(share=True),
    ),
    Plot(
        "Response length",
        "Mean over the batch.",
        _curves(("response_length_mean", "response length")),
        Scale("tokens", from_zero=True),
    ),
    Plot(
        "Gradient norm",
        "Before clipping.",
        _curves(("gradient_norm", "gradient norm")),
        Scale(from_zero=True),
    ),
)
