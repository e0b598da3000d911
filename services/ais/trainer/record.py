"""What is written about each step: one JSON object a line in `steps.jsonl` of the run's directory.

A figure is None where it was not measured. One that is not finite, as after arithmetic that overflowed, is written as
null: JSON has no word for it, and a record must never end the run it describes.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ais.runtime.files import replace_file
from ais.trainer.reward_figures import RewardFigures

STEPS_FILE = "steps.jsonl"


@dataclass(frozen=True)
class StepFigures:
    """What the trainer measured while it trained one batch.

    Means are over response tokens unless said otherwise; log-probs, entropies and divergences are in nats. Statistics
    of importance ratios compare the behaviour policy (quantised, of the version that sampled) with the proximal one
    (BF16, at the start of the step). None: not measured, because an update was skipped before it could be.
    """

    step: int
    """Batches trained, this one included."""
    version: int
    """Policy version after the step; equal to `step`."""

    reward_mean: float
    """Mean reward of the batch's trajectories."""
    reward_std: float
    """Standard deviation of their rewards."""
    loss: float | None
    """Surrogate loss whose gradient was taken; the mean over updates when a batch makes several."""
    gradient_norm: float | None
    """Global gradient norm before clipping; the largest one when a batch makes several updates."""
    learning_rate: float
    """Learning rate of the step's updates."""
    entropy: float | None
    """Mean entropy of the policy at the sampled positions."""
    reference_kl: float | None
    """Mean divergence from the reference policy, by the estimator of trainer.objective.reference; None without one."""
    bounded_share: float | None
    """Share of the tokens on which the objective's clip or mask acts."""
    updates: int
    """Optimizer updates made."""
    skipped_updates: int
    """Updates left out because a loss or a gradient was not finite, or because the batch was not trusted."""

    alpha: float | None
    """AIS mixing coefficient: 0 uncorrected, 1 fully importance-weighted. None for corrections that do not mix."""
    trusted: bool
    """False when the mismatch is too large for importance weights to mean anything, or nothing could be measured."""
    severity: float | None
    """Factor of alpha from the mean absolute log-ratio; None for corrections that do not mix, like the next two."""
    reliability: float | None
    """Factor of alpha from the effective sample size of the truncated weights."""
    amplification: float | None
    """Factor of alpha from the effective number of sequences: 0 when one carries the batch, or no weight is
    evidence."""
    concerns: list[str]
    """What is wrong with the correction of this batch: codes of `ais_core.plan.CONCERNS`, which has them in words."""
    weight_mean: float | None
    """Mean of the mixed weights: the size of the step relative to an uncorrected one. None for corrections that do not
    mix, like the next two."""
    weighted_share: float | None
    """The part of that mean which is importance-weighted: 0 is an uncorrected gradient, whatever alpha says."""
    weight_slope: float | None
    """The response of a token's weight to its own ratio, both in logarithms, averaged over tokens: 1 corrects each
    token by its whole ratio, 0 does not look at it."""
    effective_sequences: float | None
    """How many sequences carry the batch under the raw weights at the correction's level; 1 is a single one."""
    limited_share: float | None
    """Share of the tokens whose raw weight is beyond the exponent limit, where it is no evidence."""
    ess_ratio_raw: float | None
    """Effective sample size of the tokens' raw importance ratios, as a share of the tokens."""
    ess_ratio_applied: float | None
    """The same of the weights that multiplied the advantages."""
    sequence_ess_ratio_raw: float | None
    """Effective sample size of the raw sequence ratios, as a share of the sequences."""
    sequence_ess_ratio_applied: float | None
    """The same of the sequences' mean applied weights."""
    log_ratio_abs_mean: float | None
    """Mean absolute log-ratio."""
    ratio_cv: float | None
    """Coefficient of variation of the tokens' raw ratios."""
    weight_cv: float | None
    """The same of the raw weights at the level that the correction works on, such as whole sequences."""
    kl_k1: float | None
    """Estimate k1 of KL(behaviour || proximal): unbiased, noisy."""
    kl_k3: float | None
    """Estimate k3 of KL(behaviour || proximal): never negative."""

    trajectories: int
    """Responses in the batch."""
    tokens: int
    """Response tokens in the batch."""
    response_length_mean: float
    """Mean response length, tokens."""
    truncated_share: float
    """Share of the responses that max_new_tokens cut off before they had ended."""
    zero_variance_share: float
    """Share of the groups whose responses all have the same reward. They teach nothing by themselves."""
    staleness_mean: float
    """Mean over trajectories of versions between the oldest token's policy and the policy trained."""
    staleness_max: int
    """Largest of them."""
    microbatches: int
    """Forward passes with gradients, of each rank."""


@dataclass(frozen=True)
class StepRecord(RewardFigures, StepFigures):
    """One line of `steps.jsonl`: the batch's figures and what the service knows around them."""

    log_ratio_counts: dict[str, int]
    """Tokens by their log-ratio, by the upper bound of each interval in nats; the last is `+Inf`."""
    digest: str
    """Digest of the weights of `version`."""
    time: float
    """Unix time at the end of the step, seconds."""
    step_seconds: float
    """From the end of the step before to the end of this one."""
    phase_seconds: dict[str, float]
    """Where they went: wait (for groups), prepare (tensors and advantages), forward_backward, correction (measuring,
    planning and weighting), optimizer, serialise (the snapshot), other."""
    tokens_per_second: float
    """Response tokens by `step_seconds`."""
    queue_depth: int
    """Groups published and not yet trained on, after this batch."""
    replicas: int
    """Live replicas."""
    ordinals: list[int]
    """Ordinals of the batch's groups."""
    group_ids: list[str]
    """Their group ids."""
    incarnation: int
    """The trainer that made the step: the run's first, second, ... A step after the last checkpoint of a trainer that
    died is made again by the next one, and this line takes the place of the other."""


def sync(directory: Path) -> None:
    """Waits until the lines written so far are on the disk."""
    with (directory / STEPS_FILE).open("a", encoding="utf-8") as file:
        os.fsync(file.fileno())


def rewind(directory: Path, version: int) -> None:
    """Forgets the lines of steps after `version`: they are trained again."""
    file = directory / STEPS_FILE
    if not file.exists():
        return
    with file.open(encoding="utf-8") as lines:
        # What a crash has cut short is the last line, of a step that no checkpoint covers.
        replace_file(file, (line for line in lines if line.endswith("\n") and json.loads(line)["version"] <= version))


def append(directory: Path, record: StepRecord) -> None:
    """Adds a line to `directory/steps.jsonl`."""
    with (directory / STEPS_FILE).open("a", encoding="utf-8") as file:
        file.write(encoded(vars(record)) + "\n")


def encoded(value: Any) -> str:
    """`value` as JSON on one line; numbers that are not finite become null, at any depth."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(part) for key, part in value.items()}
        case list() | tuple():
            return [_finite(part) for part in value]
        case _:
            return value
