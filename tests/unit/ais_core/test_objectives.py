"""Objectives: closed forms of their gradients, and sums that do not depend on how a batch is cut."""

import math

import pytest
import torch
from torch import Tensor

from ais_core import objectives
from ais_core.errors import SettingError
from ais_core.objectives import Aggregation, Normalizer

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
