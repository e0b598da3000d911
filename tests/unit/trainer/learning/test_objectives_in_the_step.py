"""Every objective, advantage, aggregation and penalty that the settings offer, in the trainer's own step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from ais.contracts.trajectory import ScoredGroup
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.learning.reference import load_reference
from ais.trainer.objective_settings import ObjectiveSettings
from ais.trainer.policy.microbatch import Sample, cut
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.record import StepFigures
from ais.trainer.settings import TrainerSettings
from ais_core.advantages import estimate
from ais_core.objective_settings import Advantage, Aggregation, Estimator, ObjectiveName
from ais_core.settings import CorrectionSettings, MixingSettings
from tests.support.trainer_groups import make_group

GROUPS = [make_group(ordinal, lengths=(2, 10)) for ordinal in range(6)]
NAMES = get_args(ObjectiveName)
UNCORRECTED = CorrectionSettings(method="none", mixing=MixingSettings(mismatch_limit=math.inf))
CORRECTED = CorrectionSettings(mixing=MixingSettings(mismatch_limit=math.inf))
TIGHT = {
    "ppo_clip": {"clip_low": 1e-3, "clip_high": 1e-3, "dual_clip": 1.001},
    "gspo": {"clip_low": 1e-5, "clip_high": 1e-5},
    "cispo": {"clip_low": 1e-3, "clip_high": 1e-3},
    "dppo": {"threshold_low": 1e-3, "threshold_high": 1e-3},
}
"""Bounds that act on the demo's second update of a batch."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    demo_model(seed=2).bfloat16().save_pretrained(directory)
    return directory


def learner_of(
    model: Path,
    objective: dict[str, Any],
    tokens: int = 10_000,
    correction: CorrectionSettings | None = None,
    share_prompts: bool = False,
) -> Learner:
    """In float32, so that a cut into microbatches changes nothing but the order of additions."""
    settings = TrainerSettings.model_validate(
        {
            "objective": objective,
            "optimizer": {"warmup_steps": 0, "max_grad_norm": 1e9, "learning_rate": 1e-3},
            "compute": {"tokens_per_microbatch": tokens, "device": "cpu", "share_prompts": share_prompts},
        }
    )
    run, ranks = RunSettings(steps=100, model=model), Ranks(torch.device("cpu"))
    policy = Policy.load(model, "cpu", compute_dtype=torch.float32)
    reference = load_reference(run, settings, policy, ranks)
    return Learner(policy, run, settings, correction or CORRECTED, ranks=ranks, reference=reference)


def gradients_of(learner: Learner, groups: Sequence[ScoredGroup] = GROUPS, steps: int = 1) -> list[torch.Tensor]:
    """Each update's gradient as one vector; the updates are made."""
    found: list[torch.Tensor] = []
    step = learner._optimizer.step

    def remembering() -> None:
        found.append(torch.cat([master.grad.flatten() for master in learner._masters if master.grad is not None]))
        step()

    learner._optimizer.step = remembering  # type: ignore[method-assign,assignment]
    for _ in range(steps):
        learner.step(groups, PhaseClock())
    learner._optimizer.step = step  # type: ignore[method-assign]
    return found


def figures_of(learner: Learner, steps: int = 1) -> StepFigures:
    return [learner.step(GROUPS, PhaseClock()).figures for _ in range(steps)][-1]


def variants() -> list[dict[str, Any]]:
    """Each name of each choice at least once, most of them with what they are used with."""
    several = [
        {"name": name, name: TIGHT[name], "updates_per_batch": 2, "aggregation": "sequence_mean"}
        for name in NAMES
        if name in TIGHT
    ]
    return [
        *several,
        {"name": "policy_gradient", "advantage": "rloo", "entropy_coefficient": 0.1},
        {"name": "dppo", "dppo": {"divergence": "kl", "threshold_low": 1e-3, "threshold_high": 1e-3}},
        {"name": "gspo", "advantage": "dr_grpo", "aggregation": "constant_length"},
        {"name": "cispo", "advantage": "reinforce++", "reference": {"policy": "average", "decay": 0.5}},
        {"reference": {"policy": "start", "estimator": "k1", "coefficient": 1.0}, "updates_per_batch": 3},
        {"reference": {"policy": "start", "estimator": "k2", "coefficient": 1.0}, "updates_per_batch": 2},
        {"reference": {"policy": "average", "place": "reward", "coefficient": 1.0}, "entropy_coefficient": 0.1},
    ]


@pytest.mark.parametrize("objective", variants(), ids=str)
def test_the_cut_into_microbatches_changes_no_objective(objective: dict[str, Any], model: Path) -> None:
    whole = gradients_of(learner_of(model, objective), steps=2)
    parts = gradients_of(learner_of(model, objective, tokens=40), steps=2)
    assert len(whole) == len(parts) == 2 * objective.get("updates_per_batch", 1)
    # The second batch's weights have gone through Adam, which makes much of the smallest differences.
    for expected, found in list(zip(whole, parts, strict=True))[: len(whole) // 2]:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    for expected, found in zip(whole, parts, strict=True):
        assert float((found - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_on_the_first_update_every_objective_has_the_policy_gradient(name: str, model: Path) -> None:
    bounds = {"dppo": {"threshold_low": 1.0, "threshold_high": 1.0}} if name == "dppo" else {}
    objective = {"name": name, "aggregation": "sequence_mean", **bounds}
    plain = {"name": "policy_gradient", "aggregation": "sequence_mean"}
    found, expected = (gradients_of(learner_of(model, one, correction=UNCORRECTED)) for one in (objective, plain))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", TIGHT)
def test_the_share_of_bounded_tokens_is_reported(name: str, model: Path) -> None:
    tight = figures_of(learner_of(model, {"name": name, name: TIGHT[name], "updates_per_batch": 3}))
    assert tight.bounded_share is not None
    assert 0.0 < tight.bounded_share < 1.0
    assert figures_of(learner_of(model, {"name": "policy_gradient"})).bounded_share == 0.0


@pytest.mark.parametrize("advantage", get_args(Advantage))
@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_every_advantage_and_aggregation_has_its_closed_form(advantage: str, aggregation: str, model: Path) -> None:
    objective = {"advantage": advantage, "aggregation": aggregation}
    (found,) = gradients_of(learner_of(model, objective, correction=UNCORRECTED))
    rewards = torch.tensor([reward for group in GROUPS for reward in group.rewards])
    groups = torch.arange(len(GROUPS)).repeat_interleave(4)
    advantages = estimate(advantage, rewards, groups)
    policy = Policy.load(model, "cpu", compute_dtype=torch.float32)
    samples = [Sample(group.prompt_token_ids, one) for group in GROUPS for one in group.trajectories]
    (microbatch,) = cut(samples, 10_000)
    logprobs = policy.score(microbatch).logprobs
    share = {
        "token_mean": torch.full_like(logprobs, 1 / len(logprobs)),
        "sequence_mean": 1 / (len(samples) * microbatch.lengths[microbatch.rows]),
        "constant_length": torch.full_like(
            logprobs, 1 / (len(samples) * samples[0].trajectory.sampling.max_new_tokens)
        ),
    }[aggregation]
    (-(share * advantages[microbatch.sequences][microbatch.rows] * logprobs).sum()).backward()
    expected = torch.cat([master.grad.flatten() for master in policy.masters.values() if master.grad is not None])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_at_the_start_the_reference_is_the_policy_and_then_it_is_left_behind(model: Path) -> None:
    learner = learner_of(model, {"reference": {"policy": "start", "coefficient": 0.1}})
    first, later = figures_of(learner), figures_of(learner, steps=3)
    assert first.reference_kl == 0.0
    assert later.reference_kl is not None
    assert later.reference_kl > 1e-2


@pytest.mark.parametrize("place", ["loss", "reward"])
@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_the_penalty_keeps_the_policy_near_its_reference(place: str, estimator: str, model: Path) -> None:
    def distance(coefficient: float) -> float:
        reference = {"policy": "start", "coefficient": coefficient, "place": place, "estimator": estimator}
        learner = learner_of(model, {"advantage": "dr_grpo", "reference": reference}, correction=UNCORRECTED)
        learner_figures = figures_of(learner, steps=4)
        with torch.no_grad():
            start = Policy.load(model, "cpu", compute_dtype=torch.float32)
            gaps = []
            for group in GROUPS:
                (part,) = cut([Sample(group.prompt_token_ids, one) for one in group.trajectories], 10_000)
                now, then = learner._policy.distribution(part), start.distribution(part)
                gaps.append((now.exp() * (now - then)).sum(-1))
        assert learner_figures.reference_kl is not None
        return float(torch.cat(gaps).mean())

    assert distance(10.0 if place == "loss" else 0.3) < distance(1e-6)


def test_the_penalty_in_the_reward_is_a_sum_over_tokens_before_advantages(model: Path) -> None:
    objective = {"reference": {"policy": "start", "place": "reward", "estimator": "k1", "coefficient": 0.5}}
    learner = learner_of(model, objective, correction=UNCORRECTED)
    gradients_of(learner)  # the policy leaves its start
    samples = [Sample(group.prompt_token_ids, one) for group in GROUPS for one in group.trajectories]
    (microbatch,) = cut(samples, 10_000)
    reference = learner._reference
    assert reference is not None
    with torch.no_grad():
        gaps = learner._policy.score(microbatch).logprobs - reference.logprobs(microbatch)
    sums = torch.zeros(len(samples)).index_add_(0, microbatch.sequences[microbatch.rows], gaps)
    rewards = [reward for group in GROUPS for reward in group.rewards]
    penalised = [
        replace(group, rewards=tuple(rewards[4 * n + i] - 0.5 * float(sums[4 * n + i]) for i in range(4)))
        for n, group in enumerate(GROUPS)
    ]
    plain = learner_of(model, {}, correction=UNCORRECTED)
    for own, other in zip(plain._masters, learner._masters, strict=True):
        own.data.copy_(other.data)
    (expected,) = gradients_of(plain, penalised)
    (found,) = gradients_of(learner)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_the_entropy_bonus_has_the_gradient_of_the_entropy(model: Path) -> None:
    with_bonus, without = (
        learner_of(model, {"entropy_coefficient": bonus}, correction=UNCORRECTED) for bonus in (0.25, 0.0)
    )
    (found,), (plain,) = gradients_of(with_bonus), gradients_of(without)
    policy = Policy.load(model, "cpu", compute_dtype=torch.float32)
    (microbatch,) = cut([Sample(group.prompt_token_ids, one) for group in GROUPS for one in group.trajectories], 10_000)
    logs = policy.distribution(microbatch)
    (-0.25 * -(logs.exp() * logs).sum(-1).mean()).backward()
    bonus = torch.cat([master.grad.flatten() for master in policy.masters.values() if master.grad is not None])
    torch.testing.assert_close(found - plain, bonus, rtol=1e-3, atol=1e-6)


def test_the_average_follows_the_policy_at_its_pace(model: Path) -> None:
    learner = learner_of(model, {"reference": {"policy": "average", "decay": 0.75}})
    assert learner._reference is not None
    expected = {name: weight.clone() for name, weight in learner._reference.average.items()}
    for _ in range(3):
        learner.step(GROUPS, PhaseClock())
        for name, master in learner._policy.masters.items():
            expected[name] = 0.75 * expected[name] + 0.25 * master.detach()
    for name, weight in learner._reference.average.items():
        torch.testing.assert_close(weight, expected[name])


@pytest.mark.parametrize("policy", ["start", "average"])
def test_a_reference_survives_a_resume_to_the_bit(policy: str, model: Path, tmp_path: Path) -> None:
    objective = {"reference": {"policy": policy, "coefficient": 1.0, "decay": 0.5}}
    learner = learner_of(model, objective)
    learner.step(GROUPS, PhaseClock())
    learner.save(tmp_path / "training").result()
    memory = learner.memory
    expected = learner.step(GROUPS, PhaseClock()).snapshot.digest
    resumed = learner_of(model, objective)
    resumed.resume(memory, tmp_path / "training")
    assert resumed.step(GROUPS, PhaseClock()).snapshot.digest == expected


def test_an_average_begins_at_the_policy_where_the_checkpoint_has_none(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model, {})
    learner.step(GROUPS, PhaseClock())
    learner.save(tmp_path / "training").result()
    resumed = learner_of(model, {"reference": {"policy": "average"}})
    resumed.resume(learner.memory, tmp_path / "training")
    assert resumed._reference is not None
    for name, weight in resumed._reference.average.items():
        torch.testing.assert_close(weight, learner._policy.masters[name].detach())


def test_a_start_that_is_no_longer_the_start_is_refused(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "model"
    demo_model(seed=2).save_pretrained(own)
    objective = {"reference": {"policy": "start"}}
    learner = learner_of(own, objective)
    learner.save(tmp_path / "training").result()
    demo_model(seed=3).save_pretrained(own)
    with pytest.raises(UnavailableError, match="run.model are not those that the run was begun with"):
        learner_of(own, objective).resume(learner.memory, tmp_path / "training")


def test_a_reference_from_a_directory_is_that_model(model: Path, tmp_path: Path) -> None:
    demo_model(seed=5).save_pretrained(tmp_path / "other")
    learner = learner_of(model, {"reference": {"policy": "directory", "directory": tmp_path / "other"}})
    kl = figures_of(learner).reference_kl
    assert kl is not None
    assert math.isfinite(kl)
    assert kl > 0.01


def test_a_reference_with_other_tokens_is_refused(model: Path, tmp_path: Path) -> None:
    other = demo_model(seed=5)
    other.resize_token_embeddings(30)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UnavailableError, match="has 30 tokens"):
        learner_of(model, {"reference": {"policy": "directory", "directory": tmp_path / "other"}})


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"name": "policy_gradient", "updates_per_batch": 2}, "has no ratio"),
        ({"reference": {"policy": "directory"}}, "go together"),
        ({"reference": {"policy": "start", "directory": "x"}}, "go together"),
        ({"gspo": {"clip_low": 0.0}}, "clip_low must be above 0"),
        ({"ppo_clip": {"dual_clip": 1.0}}, "dual_clip must be above 1"),
        ({"dppo": {"threshold_low": -1.0}}, "threshold_low must be positive"),
    ],
)
def test_settings_that_mean_nothing_are_refused(objective: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObjectiveSettings.model_validate(objective)
