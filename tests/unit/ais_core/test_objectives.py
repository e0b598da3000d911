"""Objectives: closed forms of their gradients, and sums that do not depend on how a batch is cut."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from ais_core import objective_settings, objectives
from ais_core.errors import SettingError
from ais_core.objective_settings import Aggregation
from ais_core.objectives import Normalizer, Tokens
from ais_core.objectives.surrogates import too_far

LENGTHS = torch.tensor([3, 0, 5])


def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    current, noise, weights = torch.randn(3, 8, generator=generator)
    advantages = torch.tensor([1.0, 1.0, 1.0, -2.0, -2.0, -2.0, -2.0, -2.0])
    return current.requires_grad_(), current.detach() + noise, advantages, weights.exp()


def gradient(loss: Tensor, current: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), current)[0]


def test_on_policy_every_surrogate_has_the_weighted_policy_gradient() -> None:
    current, _, advantages, weights = tensors()
    proximal = current.detach()
    expected = -weights * advantages
    for loss in (
        objectives.policy_gradient(current, advantages, weights),
        objectives.clipped(current, proximal, advantages, weights),
        objectives.clipped(current, proximal, advantages, weights, dual_clip=3.0),
        objectives.cispo(current, proximal, advantages, weights),
        objectives.gspo(current, proximal, advantages, weights, LENGTHS),
    ):
        torch.testing.assert_close(gradient(loss, current), expected)


def test_the_clip_stops_the_gradient_outside_its_bounds_on_the_side_that_gains() -> None:
    ratio = torch.tensor([0.7, 0.7, 1.1, 1.25, 1.4, 1.4])
    advantages = torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0, -1.0])
    current, ones = ratio.log().requires_grad_(), torch.ones(6)
    loss = objectives.clipped(current, torch.zeros(6), advantages, ones, clip_low=0.2, clip_high=0.28)
    live = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    torch.testing.assert_close(gradient(loss, current), -live * advantages * ratio)


def test_dual_clip_bounds_the_loss_of_a_negative_advantage() -> None:
    current = torch.tensor([10.0]).log()
    loss = objectives.clipped(current, torch.zeros(1), -torch.ones(1), torch.ones(1), dual_clip=3.0)
    torch.testing.assert_close(loss, torch.tensor([3.0]))
    with pytest.raises(SettingError, match="above 1"):
        objectives.clipped(current, torch.zeros(1), -torch.ones(1), torch.ones(1), dual_clip=1.0)


def test_gspo_has_the_gradient_of_the_sequence_ratio() -> None:
    current, proximal, _, _ = tensors()
    advantages = torch.tensor([1.0, 1.0, 1.0, -2.0, -2.0, -2.0, -2.0, -2.0])
    losses = objectives.gspo(current, proximal, advantages, torch.ones(8), LENGTHS, clip_low=0.99, clip_high=99.0)
    loss = objectives.aggregate(losses, LENGTHS, "sequence_mean", Normalizer(tokens=8, sequences=2))
    ratios = [(c - p).mean().exp() for c, p in zip(current.split([3, 5]), proximal.split([3, 5]), strict=True)]
    expected = -(ratios[0] * 1.0 + ratios[1] * -2.0) / 2
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, current), gradient(expected, current))


def test_cispo_keeps_the_gradient_of_clipped_tokens() -> None:
    current, proximal, advantages, weights = tensors()
    ratio = (current - proximal).detach().exp().clamp(0.0, 3.0)
    loss = objectives.cispo(current, proximal, advantages, weights)
    torch.testing.assert_close(gradient(loss, current), -weights * ratio * advantages)


def test_reference_kl_estimators_agree_with_the_exact_divergence_and_its_gradient() -> None:
    logits = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    reference = torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).log_softmax(0)
    current = logits.log_softmax(0)
    p = current.detach().exp()
    exact = (current.exp() * (current - reference)).sum()
    for estimator in ("k1", "k3"):
        torch.testing.assert_close((p * objectives.reference_kl(current, reference, estimator)).sum(), exact)
    k2 = (p * objectives.reference_kl(current, reference, "k2")).sum()
    torch.testing.assert_close(
        torch.autograd.grad(k2, logits, retain_graph=True)[0], torch.autograd.grad(exact, logits)[0]
    )


def test_entropy_of_a_uniform_distribution_is_the_logarithm_of_its_size() -> None:
    logits = torch.zeros(2, 3, 7, dtype=torch.bfloat16)
    torch.testing.assert_close(objectives.entropy(logits), torch.full((2, 3), math.log(7)))


@pytest.mark.parametrize("far", [-1000.0, -100.0, 100.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_policies_far_apart_leave_losses_and_gradients_finite(far: float, advantage: float) -> None:
    current = torch.tensor([far, -0.1, -0.2]).requires_grad_()
    proximal, advantages, ones = torch.tensor([0.0, -0.2, -0.1]), torch.full((3,), advantage), torch.ones(3)
    for loss in (
        objectives.clipped(current, proximal, advantages, ones),
        objectives.clipped(current, proximal, advantages, ones, dual_clip=3.0),
        objectives.gspo(current, proximal, advantages, ones, torch.tensor([1, 2])),
        objectives.cispo(current, proximal, advantages, ones),
        objectives.reference_kl(current, proximal, "k3"),
    ):
        assert bool(loss.isfinite().all())
        assert bool(gradient(loss, current).isfinite().all())


def test_forbidden_tokens_add_nothing_to_the_entropy_or_its_gradient() -> None:
    allowed = torch.tensor([0.0, 1.0, -0.5]).requires_grad_()
    logits = torch.cat([allowed, torch.tensor([-torch.inf])]).requires_grad_()
    torch.testing.assert_close(objectives.entropy(logits), objectives.entropy(allowed))
    masked = gradient(objectives.entropy(logits), logits)
    torch.testing.assert_close(masked[:3], gradient(objectives.entropy(allowed), allowed))
    assert masked[3] == 0.0


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
def test_parts_of_a_batch_add_up_to_the_batch(aggregation: Aggregation) -> None:
    losses = torch.randn(8, generator=torch.Generator().manual_seed(4))
    total = Normalizer(tokens=8, sequences=3, constant_length=10)
    whole = objectives.aggregate(losses, LENGTHS, aggregation, total)
    parts = objectives.aggregate(losses[:3], LENGTHS[:2], aggregation, total) + objectives.aggregate(
        losses[3:], LENGTHS[2:], aggregation, total
    )
    torch.testing.assert_close(whole, parts)
    expected = {
        "token_mean": losses.mean(),
        "sequence_mean": (losses[:3].mean() + losses[3:].mean()) / 3,
        "constant_length": losses.sum() / 30,
    }[aggregation]
    torch.testing.assert_close(whole, expected)


@pytest.mark.parametrize("length", [None, 0.0, -5.0, math.nan, math.inf])
def test_a_constant_length_that_is_missing_or_means_nothing_is_refused(length: float | None) -> None:
    with pytest.raises(SettingError, match="longest response"):
        objectives.aggregate(torch.ones(8), LENGTHS, "constant_length", Normalizer(8, 3, length))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SettingError, match="token_mean"):
        objectives.aggregate(torch.ones(1), torch.ones(1, dtype=torch.int64), "mean", Normalizer(1, 1))
    with pytest.raises(SettingError, match="k1"):
        objectives.reference_kl(torch.ones(1), torch.ones(1), "k4")


def test_dppo_masks_what_has_moved_far_and_would_move_on() -> None:
    current = torch.tensor([0.9, 0.52, 0.1, 0.7, 0.3]).log().requires_grad_()
    behaviour, ones = torch.full((5,), 0.5).log(), torch.ones(5)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    live = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    loss = objectives.dppo(current, current.detach(), behaviour, advantages, ones)
    torch.testing.assert_close(gradient(loss, current), -live * advantages)


@pytest.mark.parametrize("p", [1e-30, 1e-6, 0.2, 0.5, 0.999999, 1.0])
@pytest.mark.parametrize("b", [1e-30, 1e-6, 0.2, 0.5, 0.999999, 1.0])
def test_dppo_measures_the_divergence_of_the_choice_between_the_token_and_all_others(p: float, b: float) -> None:
    current, behaviour = torch.tensor([p]).log(), torch.tensor([b]).log()
    p, b = float(current.double().exp()), float(behaviour.double().exp())
    kl = (b * math.log(b / p) if b else 0.0) + ((1 - b) * math.log((1 - b) / (1 - p)) if p < 1 and b < 1 else 0.0)
    for divergence, distance in (("total_variation", abs(p - b)), ("kl", kl)):
        if p == b or (p == 1.0 and divergence == "kl"):  # there the KL is infinite
            continue
        for threshold, moved in ((0.99 * distance, True), (1.01 * distance, False)):
            advantages = torch.tensor([1.0 if p > b else -1.0])
            found = too_far(current, behaviour, advantages, divergence, threshold, threshold)  # type: ignore[arg-type]
            assert bool(found) == moved, (divergence, threshold)
        assert not too_far(current, behaviour, -advantages, divergence, 0.0, 0.0)  # type: ignore[arg-type]


def padded(values: Tensor) -> tuple[Tensor, Tensor]:
    """The packed tokens as peers lay them out: [N, L], and the mask of what is a token."""
    mask = torch.arange(5) < LENGTHS[:, None]
    return torch.zeros(3, 5).masked_scatter(mask, values), mask


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "cispo", "dppo"])
def test_losses_are_those_that_peers_publish(name: str) -> None:
    """verl's core_algos (vanilla with dual clip, gspo, dppo_tv) and TRL's loss_type cispo, written anew from their
    formulas on padded tensors, with their own bounds, before their rollout weights are multiplied."""
    packed, behind, signs, weights = tensors()
    packed, behind, weights = packed.detach() - 1.0, behind - 1.0, weights
    packed.requires_grad_()
    (current, mask), (old, _), (advantages, _), (factor, _) = map(padded, (packed, behind, signs, weights))
    ratio = (current - old).clamp(-20, 20).exp()
    settings: objective_settings.ObjectiveSettings
    match name:
        case "ppo_clip":
            settings = objective_settings.PPOClip(0.2, 0.28, dual_clip=3.0)
            first = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.28))
            losses = torch.where(advantages < 0, torch.minimum(-advantages * 3.0, first), first)
        case "gspo":
            settings = objective_settings.GSPO(0.5, 0.6)
            mean = ((current - old) * mask).sum(-1) / mask.sum(-1).clamp(min=1)
            ratio = (current - current.detach() + mean.detach()[:, None]).clamp(max=10.0).exp()
            losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.5, 1.6))
        case "cispo":
            settings = objective_settings.CISPO(1.0, 2.0)
            losses = -ratio.clamp(max=3.0).detach() * advantages * current
        case _:
            settings = objective_settings.DPPO(ratio_cap=20.0)
            moved = current.exp() - old.exp()
            valid = torch.where(advantages > 0, moved <= 0.2, moved >= -0.2)
            losses = -advantages * ratio.clamp(max=20.0).detach() * current * valid
    expected = (losses * factor)[mask]
    found = objectives.build(name, settings)(Tokens(packed, behind, behind, signs, weights, LENGTHS))
    assert torch.allclose(found.losses, expected, rtol=2e-7, atol=2e-7)
    torch.testing.assert_close(gradient(found.losses, packed), gradient(expected, packed), rtol=1e-6, atol=1e-6)


def test_the_bounded_tokens_are_those_whose_ratio_the_objective_holds_back() -> None:
    ratio = torch.tensor([0.7, 0.7, 1.1, 1.25, 1.4, 1.4])
    advantages = torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0, -1.0])
    zeros, ones = torch.zeros(6), torch.ones(6)
    tokens = Tokens(ratio.log(), zeros, zeros, advantages, ones, torch.tensor([6]))
    bounded = {
        "ppo_clip": ([0, 1, 0, 0, 1, 0], objective_settings.PPOClip(0.2, 0.28)),
        "cispo": ([1, 1, 0, 0, 1, 1], objective_settings.CISPO(0.2, 0.28)),
        "policy_gradient": ([0, 0, 0, 0, 0, 0], None),
    }
    for name, (expected, settings) in bounded.items():
        assert objectives.build(name, settings)(tokens).bounded.tolist() == [bool(one) for one in expected], name


def test_every_objective_has_a_name_and_takes_its_own_settings_only() -> None:
    assert set(objectives.OBJECTIVES) == set(get_args(objective_settings.ObjectiveName))
    with pytest.raises(SettingError, match="known: ppo_clip, gspo"):
        objectives.build("ppo")
    with pytest.raises(SettingError, match="settings of type GSPO, got CISPO"):
        objectives.build("gspo", objective_settings.CISPO())


def test_k1_as_a_loss_has_the_value_of_k1_and_the_gradient_of_k2() -> None:
    current, reference, _, _ = tensors()
    k1, k2 = (objectives.reference_kl(current, reference, name) for name in ("k1", "k2"))  # type: ignore[arg-type]
    torch.testing.assert_close(k1, current - reference)
    torch.testing.assert_close(gradient(k1, current), gradient(k2, current))
