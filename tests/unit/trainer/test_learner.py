"""The training step: what it computes, and that nothing non-finite passes it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import torch

from ais.contracts.sampling import FinishReason, Precision
from ais.contracts.trajectory import ScoredGroup
from ais.runtime.settings import RunSettings
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.learning.batch import prepare
from ais.trainer.learning.learner import Learner, StepOutcome
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.policy.microbatch import Microbatch, Sample, cut
from ais.trainer.policy.policy import Policy, TokenScores
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.record import StepFigures, encoded
from ais.trainer.settings import TrainerSettings
from ais_core.settings import CorrectionSettings, MixingSettings
from tests.support.trainer_groups import make_group
from tests.support.trainer_settings import trainer_settings

GROUPS = [make_group(ordinal, lengths=(2, 10)) for ordinal in range(6)]
SAME_BATCH = CorrectionSettings(mixing=MixingSettings(evaluation="same_batch"))
PREVIOUS_BATCH = CorrectionSettings(mixing=MixingSettings(evaluation="previous_batch"))


class Gradients:
    """Remembers the gradients of each update, and leaves the weights as they are."""

    def __init__(self, learner: Learner) -> None:
        self.updates: list[dict[str, torch.Tensor]] = []
        self._masters = learner._policy.masters
        learner._optimizer.step = self._step  # type: ignore[method-assign,assignment]

    def _step(self) -> None:
        self.updates.append(
            {name: master.grad.clone() for name, master in self._masters.items() if master.grad is not None}
        )


def new_learner(
    correction: CorrectionSettings = PREVIOUS_BATCH, dtype: torch.dtype = torch.float32, **settings: Any
) -> Learner:
    policy = Policy(demo_model(seed=2), compute_dtype=dtype)
    trainer = trainer_settings(**{"max_grad_norm": 1e9, "warmup_steps": 0, **settings})
    return Learner(policy, RunSettings(steps=100), trainer, correction)


def train(learner: Learner, groups: Sequence[ScoredGroup] = GROUPS, steps: int = 1) -> list[StepOutcome]:
    return [learner.step(groups, PhaseClock()) for _ in range(steps)]


def on_policy(
    learner: Learner, groups: Sequence[ScoredGroup] = GROUPS, precision: Precision | None = None
) -> list[ScoredGroup]:
    """The groups with the behaviour log-probs that the policy itself gives, at a precision if there is one."""
    renewed = []
    for group in groups:
        (microbatch,) = cut([Sample(group.prompt_token_ids, one) for one in group.trajectories], 10_000)
        with torch.no_grad():
            parts = learner._policy.score(microbatch, precision).logprobs.split(microbatch.lengths.tolist())
        logprobs = dict(zip(microbatch.sequences.tolist(), parts, strict=True))
        trajectories = (
            replace(one, behaviour_logprobs=logprobs[index].numpy()) for index, one in enumerate(group.trajectories)
        )
        renewed.append(replace(group, trajectories=tuple(trajectories)))
    return renewed


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, gradient in expected.items():
        torch.testing.assert_close(
            actual[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text
        )


def assert_close_to(actual: torch.Tensor, expected: torch.Tensor | None, name: str) -> None:
    """Equal but for the rounding of BF16."""
    assert expected is not None
    assert float((actual - expected).norm() / expected.norm()) < 0.1, name


@pytest.mark.parametrize("correction", [SAME_BATCH, PREVIOUS_BATCH, CorrectionSettings(method="m2po")])
@pytest.mark.parametrize("settings", [{}, {"updates_per_batch": 2}, {"aggregation": "sequence_mean"}])
def test_the_cut_into_microbatches_changes_nothing(correction: CorrectionSettings, settings: dict[str, Any]) -> None:
    results = []
    for tokens_per_microbatch in (10_000, 40):
        learner = new_learner(correction, tokens_per_microbatch=tokens_per_microbatch, **settings)
        gradients = Gradients(learner)
        results.append((train(learner, steps=2)[-1].figures, gradients.updates, learner.memory.correction))
    (whole, gradients, state), (parts, other_gradients, other_state) = results
    assert whole.microbatches == settings.get("updates_per_batch", 1)
    assert parts.microbatches >= 8
    for actual, expected in zip(other_gradients, gradients, strict=True):
        assert_same(actual, expected)
    for name in ("alpha", "loss", "entropy", "ess_ratio_applied", "sequence_ess_ratio_applied", "kl_k3", "ratio_cv"):
        if getattr(whole, name) is None:
            assert (name, getattr(parts, name), correction.method) == ("alpha", None, "m2po")
            continue
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-4, abs=1e-7), name
    assert state is not None
    assert other_state is not None
    assert other_state["sums"] == pytest.approx(state["sums"], rel=1e-4, abs=1e-4)


def test_identical_policies_give_the_plain_grpo_gradient() -> None:
    learner = new_learner()
    groups = on_policy(learner)
    gradients = Gradients(learner)
    (outcome,) = train(learner, groups)

    rewards = torch.tensor([group.rewards for group in groups])
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)
    samples = [Sample(group.prompt_token_ids, one) for group in groups for one in group.trajectories]
    (microbatch,) = cut(samples, 10_000)
    policy = Policy(demo_model(seed=2), compute_dtype=torch.float32)
    per_token = advantages.flatten()[microbatch.sequences][microbatch.rows]
    (-(per_token * policy.score(microbatch).logprobs).sum() / len(microbatch.targets)).backward()
    expected = {name: master.grad for name, master in policy.masters.items() if master.grad is not None}

    assert_same(gradients.updates[0], expected)
    assert outcome.figures.alpha == pytest.approx(0.0, abs=1e-6)
    assert outcome.figures.ess_ratio_raw == pytest.approx(1.0)
    assert outcome.figures.ess_ratio_applied == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("correction", "settings"),
    [
        (CorrectionSettings(mixing=MixingSettings(alpha_max=0.0)), {"straight_through": True}),
        (SAME_BATCH, {"straight_through_every": 1}),
        (SAME_BATCH, {"straight_through_every": 1, "tokens_per_microbatch": 40}),
        (CorrectionSettings(method="tis"), {"straight_through_every": 1}),
    ],
)
def test_straight_through_alone_is_the_gradient_of_the_policy_that_sampled(
    correction: CorrectionSettings, settings: dict[str, Any]
) -> None:
    learner = new_learner(correction, torch.bfloat16, **settings)
    precision = GROUPS[0].trajectories[0].precision
    groups = on_policy(learner, precision=precision)
    gradients = Gradients(learner)
    train(learner, groups)

    batch = prepare(groups, 0, TrainerSettings(), Ranks(torch.device("cpu")))
    (microbatch,) = batch.microbatches
    policy = Policy(demo_model(seed=2))
    per_token = batch.advantages[microbatch.sequences][microbatch.rows]
    (-(per_token * policy.score(microbatch, precision).logprobs).sum() / len(microbatch.targets)).backward()
    for name, master in policy.masters.items():
        assert_close_to(gradients.updates[0][name], master.grad, name)


@pytest.mark.parametrize("correction", [SAME_BATCH, PREVIOUS_BATCH])
def test_the_policy_that_sampled_is_trained_in_one_step_of_so_many_and_measured_in_all(
    correction: CorrectionSettings,
) -> None:
    """Three steps from one policy, whose weights the spy leaves alone; the second is the sampling policy's turn."""
    updates: dict[int, list[Any]] = {}
    figures: dict[int, list[StepFigures]] = {}
    for every in (0, 1, 2):
        learner = new_learner(correction, torch.bfloat16, straight_through_every=every)
        gradients = Gradients(learner)
        figures[every] = [outcome.figures for outcome in train(learner, steps=3)]
        updates[every] = gradients.updates
    for step, like in enumerate((0, 1, 0)):
        for name, gradient in updates[like][step].items():
            assert torch.equal(updates[2][step][name], gradient), (step, name)
    assert any(not torch.equal(updates[0][1][name], gradient) for name, gradient in updates[1][1].items())
    measured = [[(one.alpha, one.log_ratio_abs_mean, one.entropy) for one in steps] for steps in figures.values()]
    assert measured[0] == measured[1] == measured[2]
    assert [one.weight_mean is None for one in figures[2]] == [False, True, False]


def test_straight_through_changes_nothing_where_only_the_weighted_branch_is_taken() -> None:
    everything_corrected = CorrectionSettings(mixing=MixingSettings(rule="constant", alpha_max=1.0, mismatch_limit=1e9))
    updates = []
    for straight_through in (False, True):
        learner = new_learner(everything_corrected, torch.bfloat16, straight_through=straight_through)
        gradients = Gradients(learner)
        train(learner)
        updates += gradients.updates
    for name, gradient in updates[0].items():
        assert_close_to(updates[1][name], gradient, name)


@pytest.mark.parametrize(
    "settings",
    [
        {"straight_through": True},
        {"straight_through": True, "updates_per_batch": 2},
        {"straight_through_every": 1},
        {"straight_through_every": 1, "updates_per_batch": 2},
    ],
)
def test_straight_through_keeps_to_the_global_sums_however_the_batch_is_cut(settings: dict[str, Any]) -> None:
    updates = []
    for tokens_per_microbatch in (10_000, 40):
        learner = new_learner(SAME_BATCH, torch.bfloat16, tokens_per_microbatch=tokens_per_microbatch, **settings)
        gradients = Gradients(learner)
        train(learner)
        updates.append(gradients.updates)
    for whole, parts in zip(*updates, strict=True):
        for name, gradient in whole.items():
            assert_close_to(parts[name], gradient, name)


@pytest.mark.parametrize(
    ("correction", "tokens_per_microbatch", "passes"),
    [(PREVIOUS_BATCH, 10_000, 1), (SAME_BATCH, 10_000, 1), (PREVIOUS_BATCH, 40, 1), (SAME_BATCH, 40, 2)],
)
def test_a_second_pass_is_made_only_when_the_plan_needs_one(
    correction: CorrectionSettings, tokens_per_microbatch: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = new_learner(correction, tokens_per_microbatch=tokens_per_microbatch)
    train(learner)  # the first batch has no state to plan from
    scored = []
    score = Policy.score
    monkeypatch.setattr(Policy, "score", lambda policy, part, *at: (scored.append(part), score(policy, part, *at))[1])
    (outcome,) = train(learner)
    assert len(scored) == passes * outcome.figures.microbatches


def test_several_updates_a_batch_are_sequential_and_cover_it() -> None:
    learner = new_learner(updates_per_batch=3)
    before = {name: master.detach().clone() for name, master in learner._policy.masters.items()}
    (outcome,) = train(learner)
    assert (outcome.figures.updates, outcome.figures.microbatches, outcome.figures.version) == (3, 3, 1)
    assert any(not torch.equal(before[name], master) for name, master in learner._policy.masters.items())


@pytest.mark.parametrize("broken", ["logprobs", "gradient"])
def test_a_nan_never_reaches_the_optimizer(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = new_learner()
    train(learner)
    masters = learner._policy.masters
    weights = {name: master.detach().clone() for name, master in masters.items()}
    moments = {name: learner._optimizer.state[master]["exp_avg"].clone() for name, master in masters.items()}
    score = Policy.score

    def poisoned(policy: Policy, microbatch: Microbatch, *precisions: Precision | None) -> TokenScores:
        scores = score(policy, microbatch, *precisions)
        if broken == "logprobs":
            return replace(scores, logprobs=scores.logprobs * torch.nan)
        scores.logprobs.register_hook(lambda gradient: gradient * torch.inf)
        return scores

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "score", poisoned)
        (outcome,) = train(learner)
    figures = outcome.figures
    assert (figures.skipped_updates, figures.updates, figures.version) == (1, 0, 2)
    assert figures.gradient_norm is None or math.isnan(figures.gradient_norm)
    for name, master in masters.items():
        assert torch.equal(master, weights[name]), name
        assert torch.equal(learner._optimizer.state[master]["exp_avg"], moments[name]), name
    (after,) = train(learner)
    assert (after.figures.updates, after.figures.skipped_updates) == (1, 0)
    assert after.snapshot.digest != outcome.snapshot.digest


def test_what_is_rewarded_becomes_more_likely_in_bf16() -> None:
    learner = new_learner(dtype=torch.bfloat16, learning_rate=1e-3, max_grad_norm=1.0)
    groups = [replace(group, rewards=(1.0, 0.0, 0.0, 0.0)) for group in on_policy(learner)]
    samples = [Sample(group.prompt_token_ids, group.trajectories[0]) for group in groups]
    (rewarded,) = cut(samples, 10_000)
    with torch.no_grad():
        before = learner._policy.score(rewarded).logprobs.mean()
    train(learner, groups, steps=4)
    with torch.no_grad():
        after = learner._policy.score(rewarded).logprobs.mean()
    assert after > before + 0.1


@pytest.mark.parametrize(("pace", "rate"), [("constant", 1e-3), ("signal", 1e-3 * 2 / 6)])
def test_a_pace_of_the_signal_steps_by_the_share_of_groups_whose_rewards_differ(pace: str, rate: float) -> None:
    learner = new_learner(learning_rate=1e-3, pace=pace)
    groups = [replace(group, rewards=(1.0,) * 4) if group.ordinal < 4 else group for group in on_policy(learner)]
    (outcome,) = train(learner, groups)
    assert outcome.figures.learning_rate == pytest.approx(rate)
    assert {group["lr"] for group in learner._optimizer.param_groups} == {outcome.figures.learning_rate}


def test_the_gradient_is_clipped_to_its_norm() -> None:
    learner = new_learner(max_grad_norm=1e-3)
    gradients = Gradients(learner)
    (outcome,) = train(learner)
    norm = torch.stack([gradient.norm() for gradient in gradients.updates[0].values()]).norm()
    assert outcome.figures.gradient_norm is not None
    assert outcome.figures.gradient_norm > 1e-2
    assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("temperature", [1e-4, 1e-3, 1e-2, 50.0])
@pytest.mark.parametrize(
    "correction", [SAME_BATCH, CorrectionSettings(method="tis"), CorrectionSettings(method="none")]
)
@pytest.mark.parametrize("tokens_per_microbatch", [10_000, 40])
def test_figures_of_a_degenerate_policy_are_numbers(
    correction: CorrectionSettings, temperature: float, tokens_per_microbatch: int
) -> None:
    learner = new_learner(correction, tokens_per_microbatch=tokens_per_microbatch)
    groups = [make_group(ordinal, temperature=temperature) for ordinal in range(4)]
    # The tokens that the policy is sure of: it samples nothing else.
    (microbatch,) = cut([Sample(group.prompt_token_ids, one) for group in groups for one in group.trajectories], 10_000)
    best = learner._policy.distribution(microbatch).argmax(-1)
    parts = dict(zip(microbatch.sequences.tolist(), best.split(microbatch.lengths.tolist()), strict=True))
    trajectories = [
        replace(one, token_ids=parts[index].numpy().astype("int32"))
        for index, one in enumerate(one for group in groups for one in group.trajectories)
    ]
    groups = [
        replace(group, trajectories=tuple(trajectories[4 * index : 4 * index + 4]))
        for index, group in enumerate(groups)
    ]
    (outcome,) = train(learner, on_policy(learner, groups))
    figures = outcome.figures
    mixing = {"alpha", "severity", "reliability", "amplification", "weight_mean", "weighted_share", "weight_slope"}
    assert figures.concerns == []
    for field in fields(figures):
        value = getattr(figures, field.name)
        if field.name in ("concerns", "reference_kl"):
            continue
        if field.name in mixing and correction.method != "ais":
            continue
        assert value is not None, field.name
        assert math.isfinite(value), field.name
    if temperature <= 1e-3:
        assert figures.entropy == pytest.approx(0.0, abs=1e-3)


def test_a_batch_of_another_policy_is_measured_and_not_trained() -> None:
    learner = new_learner(SAME_BATCH)
    train(learner)
    masters = {name: master.detach().clone() for name, master in learner._policy.masters.items()}
    strange = [
        replace(
            group,
            trajectories=tuple(
                replace(one, behaviour_logprobs=one.behaviour_logprobs - 20.0) for one in group.trajectories
            ),
        )
        for group in GROUPS
    ]
    (outcome,) = train(learner, strange)
    assert not outcome.figures.trusted
    assert (outcome.figures.updates, outcome.figures.skipped_updates) == (0, 1)
    assert outcome.figures.log_ratio_abs_mean == pytest.approx(20.0, rel=0.2)
    assert outcome.figures.version == 2
    for name, master in learner._policy.masters.items():
        assert torch.equal(master, masters[name]), name


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo", "reinforce++"])
@pytest.mark.parametrize("reward", [3e38, -3e38, 1e20, 1e300])
def test_rewards_of_any_size_end_no_step_and_their_record_is_json(advantage: str, reward: float) -> None:
    learner = new_learner(advantage=advantage)
    masters = {name: master.detach().clone() for name, master in learner._policy.masters.items()}
    groups = [replace(group, rewards=(reward, -reward, 0.0, 1.0)) for group in GROUPS]
    (outcome,) = train(learner, groups)
    assert math.isfinite(json.loads(encoded(asdict(outcome.figures)))["reward_std"] or 0.0)
    if not outcome.figures.updates:
        for name, master in learner._policy.masters.items():
            assert torch.equal(master, masters[name]), name
    assert all(master.isfinite().all() for master in learner._policy.masters.values())


def test_a_batch_says_what_of_it_teaches_nothing() -> None:
    groups = [replace(group, rewards=(1.0,) * 4) if index < 2 else group for index, group in enumerate(GROUPS)]
    cut_off = tuple(replace(one, finish_reason=FinishReason.LENGTH) for one in groups[0].trajectories)
    groups[0] = replace(groups[0], trajectories=cut_off)
    figures = train(new_learner(), groups)[0].figures
    assert figures.truncated_share == pytest.approx(4 / 24)
    assert figures.zero_variance_share == pytest.approx(2 / 6)


def test_rehearsing_a_group_changes_nothing() -> None:
    learner, calm = new_learner(SAME_BATCH), new_learner(SAME_BATCH)
    for one in (learner, calm):
        train(one)
    for group in GROUPS:
        learner.rehearse([group])
    assert learner.memory == calm.memory
    assert train(learner)[0].snapshot.digest == train(calm)[0].snapshot.digest
