"""What a step says about its correction, in its record and to Prometheus."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from ais.contracts.trajectory import ScoredGroup
from ais.runtime.settings import RunSettings
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.policy.policy import Policy
from ais.trainer.record import StepFigures, StepRecord
from ais_core.plan import CONCERNS
from ais_core.settings import CorrectionSettings, MixingSettings
from tests.support.trainer_groups import make_group
from tests.support.trainer_settings import trainer_settings

GROUPS = [make_group(ordinal, lengths=(8, 10)) for ordinal in range(4)]


TABLES: dict[str, Any] = {"phase_seconds": {}, "reward_components": {}, "judgements_failed": {}}
"""Figures of a record that are no numbers."""


def figures(correction: CorrectionSettings, groups: list[ScoredGroup] = GROUPS) -> StepFigures:
    policy = Policy(demo_model(seed=2))
    learner = Learner(policy, RunSettings(steps=9), trainer_settings(), correction)
    return learner.step(groups, PhaseClock()).figures


def less_likely(groups: list[ScoredGroup], nats: float) -> list[ScoredGroup]:
    """The groups as if the sampler had found every token more likely by so many nats than it did."""
    return [
        replace(
            group,
            trajectories=tuple(
                replace(one, behaviour_logprobs=(one.behaviour_logprobs + np.float32(nats)).clip(max=0))
                for one in group.trajectories
            ),
        )
        for group in groups
    ]


def shown(found: StepFigures, **changes: Any) -> dict[str, float | None]:
    """The correction's metrics after a step with these figures."""
    rest = {field.name: 0 for field in dataclasses.fields(StepRecord)} | TABLES
    rest |= {"ordinals": [], "group_ids": []}
    registry = CollectorRegistry()
    record = StepRecord(**{**rest, **dataclasses.asdict(found), **changes})
    TrainerMetrics(registry).record(record, [0])
    return {metric: registry.get_sample_value(metric) for metric in METRICS.values()}


METRICS = {
    "alpha": "ais_mixing_coefficient",
    "weight_mean": "ais_mixed_weight_mean",
    "weighted_share": "ais_weighted_gradient_share",
    "weight_slope": "ais_weight_slope",
    "effective_sequences": "ais_effective_sequences",
    "limited_share": "ais_limited_weight_share",
}


@pytest.mark.parametrize("method", ["none", "tis", "icepop", "geometric_mask", "m2po", "vcpo"])
def test_a_method_that_does_not_mix_shows_no_alpha(method: str) -> None:
    found = figures(CorrectionSettings(method=method))
    assert found.alpha is found.weight_mean is found.weighted_share is found.weight_slope is None
    metrics = shown(found)
    for name in ("alpha", "weight_mean", "weighted_share", "weight_slope"):
        value = metrics[METRICS[name]]
        assert value is not None
        assert math.isnan(value), name


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_mean_share_and_slope_are_in_the_record_and_the_metrics(alpha: float) -> None:
    mixing = MixingSettings(evaluation="same_batch", rule="constant", alpha_max=alpha, mismatch_limit=1e9)
    found = figures(CorrectionSettings(level="token", mixing=mixing))
    assert found.alpha == alpha
    assert found.weight_mean is not None
    assert found.weighted_share is not None
    assert found.weight_slope is not None
    assert (1 - alpha) == pytest.approx(found.weight_mean * (1 - found.weighted_share), rel=1e-5)
    assert 0.0 <= found.weight_slope <= 1.0
    assert (found.weight_slope > 0.0) == (alpha > 0.0)
    for name, metric in METRICS.items():
        assert shown(found)[metric] == pytest.approx(getattr(found, name)), name


def test_answers_beyond_the_exponent_limit_are_a_concern_and_not_a_perfect_sample() -> None:
    mixing = MixingSettings(evaluation="same_batch", mismatch_limit=1e9)
    found = figures(CorrectionSettings(mixing=mixing), less_likely(GROUPS, 30.0))
    found = dataclasses.replace(found)
    assert found.limited_share == 1.0
    assert found.effective_sequences == 1.0
    assert found.alpha == found.weighted_share == 0.0
    assert {"exponent_limit", "uncorrected"} <= set(found.concerns)
    registry = CollectorRegistry()
    metrics = TrainerMetrics(registry)
    rest = {field.name: 0 for field in dataclasses.fields(StepRecord)} | TABLES
    for concerns in (found.concerns, []):
        metrics.record(StepRecord(**{**rest, **dataclasses.asdict(found), "concerns": concerns}), [0])
        for concern in CONCERNS:
            shown_value = registry.get_sample_value("ais_correction_concern", {"concern": concern})
            assert shown_value == float(concern in concerns), concern


def test_tokens_of_a_version_that_is_made_again_count_as_of_this_one() -> None:
    ahead = [
        replace(
            group,
            trajectories=tuple(
                replace(one, spans=tuple(replace(span, version=7) for span in one.spans)) for one in group.trajectories
            ),
        )
        for group in GROUPS
    ]
    assert figures(CorrectionSettings(), ahead).updates == 1
