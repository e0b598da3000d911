"""Computes the loss of each token by every objective, and whether the objective's bound acts on it.

Everything is packed: (T,) tokens of N sequences with `lengths` (N,). The loss of a token is minus what is maximised, so
the optimizer descends. `weights` are those of `Correction.weights` (behaviour -> proximal, detached); the ratio inside
an objective is current / proximal. Only `dppo`, whose trust region is around the policy that sampled, looks at the
behaviour policy too. The exponent of a ratio is clamped to +-20: a ratio that overflows has a NaN for a gradient even
where a clip stops it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ais_core.objective_settings import CISPO, DPPO, GSPO, Divergence, PPOClip
from ais_core.settings import EXPONENT_LIMIT

_PPO, _GSPO, _CISPO, _DPPO = PPOClip(), GSPO(), CISPO(), DPPO()


class TokenLosses(NamedTuple):
    """The losses of tokens, and where they are bounded."""

    losses: Tensor
    """(T,) with the gradient."""
    bounded: Tensor
    """bool (T,): the objective's clip or mask acts on the token."""


def policy_gradient(current: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    """-weight * A * log current: REINFORCE with weights. Everything is (T,)."""
    return -weights * advantages * current


def clipped(
    current: Tensor,
    proximal: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_low: float = _PPO.clip_low,
    clip_high: float = _PPO.clip_high,
    dual_clip: float | None = _PPO.dual_clip,
) -> Tensor:
    """-weight * min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), with rho = current / proximal.

    PPO (arXiv 1707.06347, equation 7). `clip_high` above `clip_low` is DAPO's clip-higher (arXiv 2503.14476). With
    `dual_clip` c > 1 a negative advantage's term is bounded from below by c A (arXiv 1912.09729).

    Args:
        current: (T,) log-probs that carry the gradient.
        proximal: (T,) log-probs at the start of the step; detached here.
        advantages: (T,).
        weights: (T,).
    Returns:
        (T,) losses.
    Raises:
        SettingError: bounds that bound nothing.
    """
    return ppo_clip_losses(current, proximal, advantages, weights, PPOClip(clip_low, clip_high, dual_clip)).losses


def gspo(
    current: Tensor,
    proximal: Tensor,
    advantages: Tensor,
    weights: Tensor,
    lengths: Tensor,
    clip_low: float = _GSPO.clip_low,
    clip_high: float = _GSPO.clip_high,
) -> Tensor:
    """The clipped objective with the sequence's geometric-mean ratio in place of the token's.

    Group Sequence Policy Optimization (arXiv 2507.18071), in its token form (section 4.3): the ratio of token t is
    stopgrad(s) * current_t / stopgrad(current_t), whose gradient equals that of s under the `sequence_mean` aggregation
    when advantages and weights are those of the sequence. Arguments as `clipped`, with lengths (N,).
    """
    mean = _sequence_mean((current - proximal).detach(), lengths)
    ratio = _exponential(mean) * (current - current.detach()).exp()
    return _clip(ratio, advantages, weights, clip_low, clip_high).losses


def cispo(
    current: Tensor,
    proximal: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_low: float = _CISPO.clip_low,
    clip_high: float = _CISPO.clip_high,
) -> Tensor:
    """-weight * stopgrad(clip(rho, 1 - clip_low, 1 + clip_high)) * A * log current.

    MiniMax-M1 (arXiv 2506.13585): the ratio is clipped as a weight, so that no token loses its gradient.
    Arguments as `clipped`.
    """
    ratio = _exponential((current - proximal).detach()).clamp(1 - clip_low, 1 + clip_high)
    return -weights * ratio * advantages * current


def dppo(
    current: Tensor,
    proximal: Tensor,
    behaviour: Tensor,
    advantages: Tensor,
    weights: Tensor,
    divergence: Divergence = _DPPO.divergence,
    threshold_low: float = _DPPO.threshold_low,
    threshold_high: float = _DPPO.threshold_high,
    ratio_cap: float = _DPPO.ratio_cap,
) -> Tensor:
    """-weight * mask * stopgrad(min(rho, ratio_cap)) * A * log current: DPPO in its binary form (arXiv 2602.04879).

    With p the token's probability by current and b by behaviour, the mask is 0 where

        A > 0,   p > b,  D > threshold_high             it has gained enough
        A <= 0,  p < b,  D > threshold_low              it has lost enough

    and 1 elsewhere. D is |p - b| (total variation), or b log(b / p) + (1 - b) log((1 - b) / (1 - p)) (kl). The ratio of
    a token is no measure of how far a policy has moved: it is large for rare tokens that carry no mass. The region is
    around the policy that sampled, as in the paper, so it acts on the first update of a batch too. Arguments as
    `clipped`, with behaviour (T,).
    """
    moved = too_far(current, behaviour, advantages, divergence, threshold_low, threshold_high)
    ratio = _exponential((current - proximal).detach()).clamp(max=ratio_cap)
    return -weights * ~moved * ratio * advantages * current


@torch.no_grad()
def too_far(
    current: Tensor,
    behaviour: Tensor,
    advantages: Tensor,
    divergence: Divergence,
    threshold_low: float,
    threshold_high: float,
) -> Tensor:
    """Where `dppo`'s mask is 0: bool (T,). Arguments as there."""
    p, b = current.double().exp(), behaviour.double().exp()
    if divergence == "total_variation":
        distance = (p - b).abs()
    else:
        others = (1 - b) * (torch.log1p(-b.clamp(max=_NEARLY_ONE)) - torch.log1p(-p.clamp(max=_NEARLY_ONE)))
        distance = b * (behaviour - current).double() + others
    gaining, losing = (advantages > 0) & (p > b), (advantages <= 0) & (p < b)
    return (gaining & (distance > threshold_high)) | (losing & (distance > threshold_low))


def ppo_clip_losses(
    current: Tensor, proximal: Tensor, advantages: Tensor, weights: Tensor, settings: PPOClip
) -> TokenLosses:
    """`clipped`, and where a clip acts."""
    ratio = _exponential(current - proximal.detach())
    loss, bounded = _clip(ratio, advantages, torch.ones_like(ratio), settings.clip_low, settings.clip_high)
    if settings.dual_clip is not None:
        floor = settings.dual_clip * advantages
        below = (advantages < 0) & (-loss < floor)
        loss, bounded = torch.where(below, -floor, loss), bounded | below
    return TokenLosses(weights * loss, bounded)


def gspo_losses(
    current: Tensor, proximal: Tensor, advantages: Tensor, weights: Tensor, lengths: Tensor, settings: GSPO
) -> TokenLosses:
    """`gspo`, and where the clip acts."""
    mean = _sequence_mean((current - proximal).detach(), lengths)
    ratio = _exponential(mean) * (current - current.detach()).exp()
    return _clip(ratio, advantages, weights, settings.clip_low, settings.clip_high)


def _clip(ratio: Tensor, advantages: Tensor, weights: Tensor, low: float, high: float) -> TokenLosses:
    free, held = ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages
    return TokenLosses(-weights * torch.minimum(free, held), (held < free).detach())


def _sequence_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Each token's sequence's mean of `values` (T,)."""
    sums = torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
    return (sums / lengths.clamp(min=1)).repeat_interleave(lengths, output_size=values.numel())


def _exponential(logs: Tensor) -> Tensor:
    return logs.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).exp()


_NEARLY_ONE = 1.0 - 1e-12
