"""Weighted gradients against exact ones, by summing over every sequence of a small world."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from enumerable import World, make_policies, make_world
from torch import Tensor

import ais_core
from ais_core import CorrectionSettings, MixingSettings, SequenceBatch
from ais_core.levels import Levels
from ais_core.shrinkage import HalfBatchMoments, optimal_alpha

SEEDS = (0, 1, 2)
UNCAPPED = 1e8


def expected_gradient(
    world: World, trained: Tensor, sampled: Tensor, weights: Callable[[SequenceBatch], Tensor]
) -> Tensor:
    """E over sampled sequences of sum_t weight_t * reward * grad log trained_t."""
    trained_logs, sampled_logs = world.log_probs(trained), world.log_probs(sampled)
    ratio = ais_core.log_ratio(torch.cat(trained_logs), torch.cat(sampled_logs))
    weight = weights(SequenceBatch.packed(ratio, world.lengths)).double().split(world.lengths.tolist())
    surrogate = sum(
        math.exp(float(sampled_log.sum())) * reward * (w * trained_log).sum()
        for sampled_log, trained_log, reward, w in zip(sampled_logs, trained_logs, world.reward, weight, strict=True)
    )
    return torch.autograd.grad(surrogate, trained)[0]


def objective_gradient(
    world: World, trained: Tensor, sampled: Tensor, part: Callable[[int, int], list[tuple[range, range]]]
) -> Tensor:
    """The gradient of the sum over parts of J of a policy that is trained in the part and sampled elsewhere.

    `part(length)` gives for each part the positions that carry the gradient, and those frozen at the trained policy.
    """
    total = torch.zeros((), dtype=torch.float64)
    for trained_log, sampled_log, reward in zip(
        world.log_probs(trained), world.log_probs(sampled), world.reward, strict=True
    ):
        n = len(trained_log)
        for live, frozen in part(n):
            log = sum(
                (trained_log[t] if t in live else trained_log[t].detach() if t in frozen else sampled_log[t])
                for t in range(n)
            )
            total = total + log.exp() * reward
    return torch.autograd.grad(total, trained)[0]


def correction_weights(**settings: object) -> Callable[[SequenceBatch], Tensor]:
    correction = ais_core.build(CorrectionSettings(**settings))

    def weights(batch: SequenceBatch) -> Tensor:
        plan, _ = correction.plan(correction.measure(batch), None)
        return correction.weights(batch, None, plan)

    return weights


def rung_weights(rung: int) -> Callable[[SequenceBatch], Tensor]:
    settings = CorrectionSettings(cap=UNCAPPED, truncate_tokens=False)

    def weights(batch: SequenceBatch) -> Tensor:
        (chunk,) = batch.chunks()
        return Levels(chunk, settings).between(rung)

    return weights


NOTHING = range(0)


@pytest.mark.parametrize("seed", SEEDS)
def test_uncapped_sequence_weights_give_the_true_gradient(seed: int) -> None:
    world, (trained, sampled) = make_world(seed), make_policies(seed, 0.5)
    true = objective_gradient(world, trained, sampled, lambda n: [(range(n), NOTHING)])
    got = expected_gradient(world, trained, sampled, correction_weights(method="tis", level="sequence", cap=UNCAPPED))
    torch.testing.assert_close(got, true, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rung", [0, 1, 2])
def test_block_weights_give_the_gradient_of_a_policy_trained_inside_a_block_and_sampled_elsewhere(
    seed: int, rung: int
) -> None:
    world, (trained, sampled) = make_world(seed), make_policies(seed, 0.5)
    width = 2**rung
    local = objective_gradient(
        world, trained, sampled, lambda n: [(range(a, min(a + width, n)), NOTHING) for a in range(0, n, width)]
    )
    torch.testing.assert_close(
        expected_gradient(world, trained, sampled, rung_weights(rung)), local, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_prefix_weights_correct_the_state_and_leave_the_future_to_the_sampler(seed: int) -> None:
    world, (trained, sampled) = make_world(seed), make_policies(seed, 0.5)
    local = objective_gradient(world, trained, sampled, lambda n: [(range(t, t + 1), range(t)) for t in range(n)])
    got = expected_gradient(world, trained, sampled, correction_weights(method="tis", level="prefix", cap=UNCAPPED))
    torch.testing.assert_close(got, local, rtol=1e-5, atol=1e-6)


def test_longer_blocks_have_less_bias_on_average_over_worlds() -> None:
    levels = [correction_weights(method="none"), *(rung_weights(rung) for rung in (0, 1, 2))]
    bias = torch.zeros(len(levels))
    for seed in range(6):
        world, (trained, sampled) = make_world(seed), make_policies(seed, 0.3)
        true = objective_gradient(world, trained, sampled, lambda n: [(range(n), NOTHING)])
        bias += torch.tensor(
            [float((expected_gradient(world, trained, sampled, level) - true).norm()) for level in levels]
        )
    assert bias.tolist() == sorted(bias.tolist(), reverse=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("method", ["none", "tis"])
def test_the_bias_of_uncorrected_and_of_capped_weights_is_that_of_the_weight_they_leave_out(
    seed: int, method: str
) -> None:
    world, (trained, sampled) = make_world(seed), make_policies(seed, 0.5)
    true = objective_gradient(world, trained, sampled, lambda n: [(range(n), NOTHING)])
    cap = 1.2
    closed_form = torch.zeros(())
    for trained_log, sampled_log, reward in zip(
        world.log_probs(trained), world.log_probs(sampled), world.reward, strict=True
    ):
        weight = (trained_log.sum() - sampled_log.sum()).exp().detach()
        left_out = 1.0 - weight if method == "none" else -(weight - cap).clamp(min=0.0)
        closed_form = closed_form + sampled_log.sum().exp() * left_out * reward * trained_log.sum()
    bias = torch.autograd.grad(closed_form, trained)[0]
    settings = {"method": "none"} if method == "none" else {"method": "tis", "level": "sequence", "cap": cap}
    got = expected_gradient(world, trained, sampled, correction_weights(**settings))
    torch.testing.assert_close(got - true, bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_mixed_gradient_lies_alpha_of_the_way_from_uncorrected_to_true(alpha: float) -> None:
    world, (trained, sampled) = make_world(0), make_policies(0, 0.5)
    mixing = MixingSettings(rule="constant", alpha_max=alpha, mismatch_limit=math.inf)
    mixed, none, true = (
        expected_gradient(world, trained, sampled, weights)
        for weights in (
            correction_weights(method="ais", level="sequence", cap=UNCAPPED, truncate_tokens=False, mixing=mixing),
            correction_weights(method="none"),
            correction_weights(method="tis", level="sequence", cap=UNCAPPED),
        )
    )
    torch.testing.assert_close(mixed, none + alpha * (true - none), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_branches_on_their_own_log_probs_ascend_each_policys_own_objective(alpha: float) -> None:
    world, (trained, sampled) = make_world(0), make_policies(0, 0.5)
    sampled.requires_grad_()
    trained_logs, sampled_logs = world.log_probs(trained), world.log_probs(sampled)
    batch = SequenceBatch.packed(ais_core.log_ratio(torch.cat(trained_logs), torch.cat(sampled_logs)), world.lengths)
    mixing = MixingSettings(rule="constant", alpha_max=alpha, mismatch_limit=math.inf)
    correction = ais_core.build(
        CorrectionSettings(method="ais", level="sequence", cap=UNCAPPED, truncate_tokens=False, mixing=mixing)
    )
    plan, _ = correction.plan(correction.measure(batch), None)
    weighted, uncorrected = correction.branches(batch, None, plan)
    torch.testing.assert_close(weighted + uncorrected, correction.weights(batch, None, plan))
    chance = torch.stack([log.sum().exp() for log in sampled_logs]).detach()
    factor = (chance * world.reward).repeat_interleave(world.lengths)
    surrogate = (factor * (weighted * torch.cat(trained_logs) + uncorrected * torch.cat(sampled_logs))).sum()
    for policy, logs, share in ((trained, trained_logs, alpha), (sampled, sampled_logs, 1.0 - alpha)):
        objective = sum(log.sum().exp() * reward for log, reward in zip(logs, world.reward, strict=True))
        (own,) = torch.autograd.grad(objective, policy, retain_graph=True)
        (got,) = torch.autograd.grad(surrogate, policy, retain_graph=True)
        torch.testing.assert_close(got, share * own, rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Terms:
    """Every sequence's contribution to the uncorrected (g0) and the weighted (g1) gradient, and its probability."""

    uncorrected: Tensor
    weighted: Tensor
    probability: Tensor

    @classmethod
    def of(cls, seed: int) -> "Terms":
        world, (trained, sampled) = make_world(seed), make_policies(seed, 1.0)
        scores, weights, probabilities = [], [], []
        for trained_log, sampled_log in zip(world.log_probs(trained), world.log_probs(sampled), strict=True):
            scores.append(torch.autograd.grad(trained_log.sum(), trained, retain_graph=True)[0].flatten())
            weights.append((trained_log.sum() - sampled_log.sum()).exp().detach())
            probabilities.append(sampled_log.sum().exp().detach())
        g0 = world.reward[:, None] * torch.stack(scores)
        return cls(g0, torch.stack(weights)[:, None] * g0, torch.stack(probabilities))

    def mean(self, x: Tensor) -> Tensor:
        return (self.probability[:, None] * x).sum(0)

    def covariance(self, x: Tensor, y: Tensor) -> float:
        """Total covariance of one sample."""
        return float((self.probability * ((x - self.mean(x)) * (y - self.mean(y))).sum(1)).sum())

    def optimal_alpha(self, samples: int) -> float:
        g0, g1, true = self.uncorrected, self.weighted, self.mean(self.weighted)
        moments = (self.covariance(x, y) / samples for x, y in ((g0, g0), (g1, g1), (g0, g1)))
        return optimal_alpha(self.mean(g0) - true, self.mean(g1) - true, *moments)


@pytest.mark.parametrize("samples", [2, 16, 256])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_optimal_alpha_is_where_a_grid_finds_the_least_mean_squared_error(seed: int, samples: int) -> None:
    terms = Terms.of(seed)
    true = terms.mean(terms.weighted)
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    errors = []
    for alpha in grid:
        mixed = terms.uncorrected + alpha * (terms.weighted - terms.uncorrected)
        errors.append(float((terms.mean(mixed) - true).square().sum()) + terms.covariance(mixed, mixed) / samples)
    best = terms.optimal_alpha(samples)
    assert best == pytest.approx(float(grid[int(torch.tensor(errors).argmin())]), abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_moments_of_half_batches_are_unbiased_and_lead_to_the_optimal_alpha(seed: int) -> None:
    terms = Terms.of(seed)
    expected = [0.0, 0.0, 0.0]
    # Both halves are one sequence each: the sum over all pairs is the expectation.
    for (p, *first), (q, *second) in itertools.product(
        zip(terms.probability, terms.uncorrected, terms.weighted, strict=True), repeat=2
    ):
        found = HalfBatchMoments.of((first[0], second[0]), (first[1], second[1]))
        for i, value in enumerate((found.squared_bias, found.variance, found.covariance)):
            expected[i] += float(p * q) * value
    difference = terms.weighted - terms.uncorrected
    assert expected[0] == pytest.approx(float(terms.mean(difference).square().sum()))
    assert expected[1] == pytest.approx(terms.covariance(difference, difference) / 2)
    assert expected[2] == pytest.approx(terms.covariance(terms.uncorrected, difference) / 2)
    assert HalfBatchMoments(*expected).alpha == pytest.approx(terms.optimal_alpha(2), abs=1e-6)


def test_half_batches_that_agree_on_no_difference_leave_alpha_at_0() -> None:
    same = (torch.ones(3), torch.ones(3))
    assert HalfBatchMoments.of(same, same).alpha == 0.0
    assert HalfBatchMoments(squared_bias=-1.0, variance=0.5, covariance=0.0).alpha == 0.0
