"""Score centring against exact gradients, by summing over every sequence of a small world."""

import math

import pytest
import torch
from enumerable import make_policies, make_world, prefix_number

from ais_core import ShapeError
from ais_core.centring import centred_scores

SEEDS = (0, 1, 2)


def expected(seed: int, mismatch: float, cap: float | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The expected centred gradient in the trained logits, and both policies' logits."""
    world = make_world(seed)
    trained, sampled = make_policies(seed, mismatch)
    proximal, behaviour = trained.log_softmax(-1), sampled.log_softmax(-1)
    loss = torch.zeros((), dtype=torch.float64)
    for sequence, reward, logs in zip(world.sequences, world.reward, world.log_probs(sampled), strict=True):
        places = [prefix_number(sequence[:t]) for t in range(len(sequence))]
        scores = centred_scores(proximal[places], behaviour[places], torch.tensor(sequence), cap)
        loss = loss + math.exp(float(logs.sum())) * reward * scores.sum()
    return torch.autograd.grad(loss, trained)[0], trained, sampled


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mismatch", [0.0, 0.3, 2.0])
def test_centred_scores_are_the_gradient_of_the_samplers_reward_in_its_logits(seed: int, mismatch: float) -> None:
    gradient, _, sampled = expected(seed, mismatch, None)
    world = make_world(seed)
    logits = sampled.clone().requires_grad_()
    reward = sum(logs.sum().exp() * value for logs, value in zip(world.log_probs(logits), world.reward, strict=True))
    torch.testing.assert_close(gradient, torch.autograd.grad(reward, logits)[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_constant_added_to_all_rewards_moves_nothing(seed: int) -> None:
    """The drift that uncorrected training has on answers that are better or worse than the baseline is gone."""
    trained, sampled = make_policies(seed, 1.0)
    behaviour = sampled.log_softmax(-1)
    for cap in (None, 2.0):
        proximal = trained.log_softmax(-1)
        total = torch.zeros((), dtype=torch.float64)
        for token in range(3):
            targets = torch.full((len(trained),), token)
            scores = centred_scores(proximal, behaviour, targets, cap)
            total = total + (behaviour[:, token].exp().detach() * scores).sum()
        gradient = torch.autograd.grad(total, trained)[0]
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_uncapped_token_ratios_have_no_mean_to_take_away(seed: int) -> None:
    trained, sampled = make_policies(seed, 0.5)
    proximal, behaviour = trained.log_softmax(-1), sampled.log_softmax(-1)
    targets = torch.zeros(len(trained), dtype=torch.int64)
    gradient = torch.autograd.grad(centred_scores(proximal, behaviour, targets, 1e9).sum(), trained)[0]
    ratios = (proximal - behaviour)[:, 0].exp().detach()
    weighted = (ratios * trained.log_softmax(-1)[:, 0]).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(weighted, trained)[0])


def test_tokens_that_cannot_be_drawn_leave_no_nan() -> None:
    logits = torch.tensor([[0.0, 1.0, -math.inf]], requires_grad=True)
    logs = logits.log_softmax(-1)
    scores = centred_scores(logs, logs.detach(), torch.tensor([1]), cap=2.0)
    (gradient,) = torch.autograd.grad(scores.sum(), logits)
    assert bool(gradient[0, :2].isfinite().all())


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ShapeError, match="targets"):
        centred_scores(torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="log-probs"):
        centred_scores(torch.zeros(3, 5), torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))
