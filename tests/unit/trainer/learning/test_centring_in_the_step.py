"""Score centring in the trainer's step: its gradient against one written down token by token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ais.contracts.sampling import Precision
from ais.contracts.trajectory import ScoredGroup
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.learning.batch import prepare
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.policy import scoring as scoring_module
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import TrainerSettings
from ais_core.centring import centred_scores
from ais_core.settings import CorrectionSettings
from benchmarks.models.families import write_family
from tests.support.trainer_groups import make_group
from tests.support.trainer_settings import trainer_settings

COARSE = Precision(weights="e2m1", activations="e4m3", head=True)
BF16 = Precision(weights="bf16")
Gradient = dict[str, torch.Tensor]


def groups_at(precision: Precision) -> list[ScoredGroup]:
    groups = (make_group(ordinal, lengths=(2, 10)) for ordinal in range(6))
    return [
        replace(group, trajectories=tuple(replace(one, precision=precision) for one in group.trajectories))
        for group in groups
    ]


def gradient_of(precision: Precision, centring: bool, tokens_per_microbatch: int = 10_000) -> Gradient:
    """The first step's gradient, by the names of the weights, which stay as they are."""
    policy = Policy(demo_model(seed=2))
    settings = trainer_settings(
        max_grad_norm=1e9, warmup_steps=0, centring=centring, tokens_per_microbatch=tokens_per_microbatch
    )
    learner = Learner(policy, RunSettings(steps=100), settings, CorrectionSettings(method="none"))
    found: Gradient = {}

    def keep() -> None:
        found.update({name: one.grad.clone() for name, one in policy.masters.items() if one.grad is not None})

    learner._optimizer.step = keep  # type: ignore[method-assign,assignment]
    learner.step(groups_at(precision), PhaseClock())
    return found


@pytest.mark.parametrize("setting", ["centring", "straight_through", "straight_through_every"])
def test_a_mixture_of_experts_cannot_be_rounded_as_replicas_do_and_is_refused(setting: str, tmp_path: Path) -> None:
    policy = Policy.load(write_family("Qwen3-MoE", tmp_path), "cpu")
    with pytest.raises(UnavailableError, match=f"trainer.objective.{setting} computes the sampling policy"):
        Learner(policy, RunSettings(), trainer_settings(**{setting: True}), CorrectionSettings(method="none"))


def far(one: Gradient, other: Gradient) -> float:
    """Length of the difference, relative to `other`."""
    difference = sum(float((one[name] - other[name]).square().sum()) for name in other)
    return float((difference / sum(float(value.square().sum()) for value in other.values())) ** 0.5)


def test_the_gradient_is_that_of_centred_scores() -> None:
    batch = prepare(groups_at(COARSE), 0, TrainerSettings(), Ranks(torch.device("cpu")))
    (microbatch,) = batch.microbatches
    policy = Policy(demo_model(seed=2))
    with torch.no_grad():
        sampler = policy.distribution(microbatch, COARSE)
    scores = centred_scores(policy.distribution(microbatch), sampler, microbatch.targets)
    per_token = batch.advantages[microbatch.sequences][microbatch.rows]
    (-(per_token * scores).sum() / len(microbatch.targets)).backward()
    expected = {name: one.grad for name, one in policy.masters.items() if one.grad is not None}
    centred, plain = (far(gradient_of(COARSE, centring=centring), expected) for centring in (True, False))
    assert centred < 0.005
    assert plain > 0.03


def test_nothing_is_taken_from_the_gradient_of_rollouts_in_bf16() -> None:
    assert far(gradient_of(BF16, centring=True), gradient_of(BF16, centring=False)) < 0.01


@pytest.mark.parametrize("how", ["microbatches", "pieces"])
def test_the_cut_into_microbatches_and_pieces_changes_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gradient_of(COARSE, centring=True)
    if how == "pieces":
        monkeypatch.setattr(scoring_module, "LOGITS_AT_ONCE", 5 * 22)
    cut = gradient_of(COARSE, centring=True, tokens_per_microbatch=40 if how == "microbatches" else 10_000)
    assert far(cut, whole) < far(gradient_of(COARSE, centring=False), whole) / 3
