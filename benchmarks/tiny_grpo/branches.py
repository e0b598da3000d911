"""From a batch to its loss: the branches of the mixture, and what each method compared does to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ais.contracts.sampling import Precision
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.policy.policy import Policy
from ais_core import objectives
from ais_core.advantages import EPSILON
from ais_core.corrections import Correction
from ais_core.objectives import Normalizer
from ais_core.ratios import SequenceBatch, log_ratio
from benchmarks.tiny_grpo.experiment import Method


@dataclass(frozen=True)
class Loss:
    """The loss of a batch with its graph, and what was seen on the way."""

    value: torch.Tensor
    alpha: float
    mean_abs_log_ratio: float
    """D, nats per token."""
    sequence_ess: float
    """Effective sample of the sequence weights truncated at the cap, as a share."""


def batch_loss(
    policy: Policy,
    microbatch: Microbatch,
    advantages: torch.Tensor,
    groups: torch.Tensor,
    method: Method,
    correction: Correction,
    precision: Precision,
    generator: torch.Generator,
) -> Loss:
    """`microbatch` is the whole batch; `advantages` and `groups` [R] are in its order of sequences."""
    never_weighted = correction.settings.mixing.alpha_max == 0.0 and method.moves == "behaviour"
    with torch.set_grad_enabled(not never_weighted):
        proximal = policy.distribution(microbatch)
    current = _chosen(proximal, microbatch)
    logs = log_ratio(current, microbatch.behaviour_logprobs)
    ratios = SequenceBatch.packed(logs, microbatch.lengths)
    plan, _ = correction.plan(correction.measure(ratios, advantages), None)
    alpha = 1.0 if plan.alpha is None else plan.alpha  # a method that does not mix is weighted as a whole
    weights = correction.weights(ratios, advantages, plan)
    sequences = torch.zeros(len(advantages)).index_add_(0, microbatch.rows, logs)
    truncated = sequences.clamp(-20, 20).exp().clamp(max=correction.settings.cap)
    if method.weighted_baseline:
        advantages = _under(truncated, advantages, groups)
    per_token = advantages[microbatch.rows]

    behaviour = None
    if method.uncorrected == "behaviour" or method.closeness:
        behaviour = policy.distribution(microbatch, precision)
    if method.uncorrected == "behaviour":
        assert behaviour is not None
        mixed, sampled = _shares(alpha, weights, method, groups, microbatch, generator)
        losses = objectives.policy_gradient(current, per_token, mixed)
        losses = losses + objectives.policy_gradient(_chosen(behaviour, microbatch), per_token, sampled)
    else:
        losses = objectives.policy_gradient(current, per_token, weights)
    if method.closeness:
        assert behaviour is not None
        losses = losses + method.closeness * _divergence(proximal, behaviour, method)
    normaliser = Normalizer(tokens=logs.numel(), sequences=len(advantages))
    return Loss(
        value=objectives.aggregate(losses, microbatch.lengths, "token_mean", normaliser),
        alpha=alpha,
        mean_abs_log_ratio=float(logs.abs().mean()),
        sequence_ess=float(truncated.sum() ** 2 / (len(truncated) * truncated.square().sum())),
    )


def _shares(
    alpha: float,
    weights: torch.Tensor,
    method: Method,
    groups: torch.Tensor,
    microbatch: Microbatch,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the proximal and of the behaviour branch, each [T] or scalar, from h = 1 - alpha + alpha w."""
    weighted = weights - (1.0 - alpha)
    if not method.split:
        return weighted, torch.tensor(1.0 - alpha)
    coins = torch.rand(int(groups.max()) + 1, generator=generator) < alpha
    chosen = coins[groups][microbatch.rows].float()
    return chosen * weighted / max(alpha, 1e-6), 1.0 - chosen


def _divergence(proximal: torch.Tensor, behaviour: torch.Tensor, method: Method) -> torch.Tensor:
    """The KL between the two policies at every response position, [T]."""
    if method.moves == "behaviour":
        proximal = proximal.detach()
    if method.moves == "proximal":
        behaviour = behaviour.detach()
    first, second = (proximal, behaviour) if method.order == "proximal_behaviour" else (behaviour, proximal)
    return (first.exp() * (first - second)).sum(-1)


def _under(weights: torch.Tensor, advantages: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Advantages less their group's mean under the weights [R]: no net force on what the group has in common."""
    count = int(groups.max()) + 1
    total = torch.zeros(count).index_add_(0, groups, weights)
    mean = torch.zeros(count).index_add_(0, groups, weights * advantages) / (total + EPSILON)
    return advantages - mean[groups]


def _chosen(logprobs: torch.Tensor, microbatch: Microbatch) -> torch.Tensor:
    return logprobs.gather(1, microbatch.targets[:, None]).squeeze(1)
