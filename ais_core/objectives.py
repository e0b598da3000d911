"""Computes the loss of each token, and turns token losses into one number.

Everything is packed: (T,) tokens of N sequences with `lengths` (N,). The loss of a token is minus what is maximised, so
the optimizer descends. `weights` are those of `Correction.weights` (behaviour -> proximal, detached); the ratio inside
an objective is current / proximal, and nothing here sees the behaviour policy. The exponent of that ratio is clamped to
+-20: a ratio that overflows has a NaN for a gradient even where the clip stops it.

Normalisers count the whole batch, not the part at hand, so that the losses of microbatches, and of ranks, add up.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ais_core.errors import SettingError, ShapeError
from ais_core.settings import EXPONENT_LIMIT

Aggregation = Literal["token_mean", "sequence_mean", "constant_length"]
Estimator = Literal["k1", "k2", "k3"]


def policy_gradient(current: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    """-weight * A * log current: REINFORCE with weights. Everything is (T,)."""
    return -weights * advantages * current


def clipped(
    current: Tensor,
    proximal: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
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
    """
    ratio = _exponential(current - proximal.detach())
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        if dual_clip <= 1:
            raise SettingError(f"dual_clip must be above 1, got {dual_clip}")
        gain = torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain)
    return -weights * gain


def gspo(
    current: Tensor,
    proximal: Tensor,
    advantages: Tensor,
    weights: Tensor,
    lengths: Tensor,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Tensor:
    """The clipped objective with the sequence's geometric-mean ratio in place of the token's.

    Group Sequence Policy Optimization (arXiv 2507.18071), in its token form (section 4.3): the ratio of token t is
    stopgrad(s) * current_t / stopgrad(current_t), whose gradient equals that of s under the `sequence_mean` aggregation
    when advantages and weights are those of the sequence. Arguments as `clipped`, with lengths (N,).
    """
    logs = (current - proximal).detach()
    sums = torch.segment_reduce(logs, "sum", lengths=lengths, unsafe=True)
    mean = (sums / lengths.clamp(min=1)).repeat_interleave(lengths, output_size=logs.numel())
    ratio = _exponential(mean) * (current - current.detach()).exp()
    return -weights * torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


def cispo(
    current: Tensor,
    proximal: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_low: float = 1.0,
    clip_high: float = 2.0,
) -> Tensor:
    """-weight * stopgrad(clip(rho, 1 - clip_low, 1 + clip_high)) * A * log current.

    MiniMax-M1 (arXiv 2506.13585): the ratio is clipped as a weight, so that no token loses its gradient.
    Arguments as `clipped`.
    """
    ratio = _exponential((current - proximal).detach()).clamp(1 - clip_low, 1 + clip_high)
    return -weights * ratio * advantages * current


def reference_kl(current: Tensor, reference: Tensor, estimator: Estimator = "k3") -> Tensor:
    """A per-token penalty towards a reference policy, for samples of current.

    With d = log reference - log current: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - 1 - d (GRPO's; never negative; d is
    clamped to +-20, and a token beyond pulls no more). As a loss, k2 has the gradient of KL(current || reference). The
    gradient of k1 has mean 0, so use k1 inside the reward or not at all.
    Everything is (T,).
    """
    difference = reference.detach() - current
    match estimator:
        case "k1":
            return -difference
        case "k2":
            return difference.square() / 2
        case "k3":
            bounded = difference.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)
            return torch.expm1(bounded) - bounded
        case _:
            raise SettingError(f"unknown KL estimator {estimator!r}; known: k1, k2, k3")


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the distribution of each row of logits (..., vocabulary), in float32.

    Logits of -inf, which forbid a token, add nothing.
    """
    logs = torch.log_softmax(logits.float(), -1).clamp(min=torch.finfo(torch.float32).min)
    return -(logs.exp() * logs).sum(-1)


def _exponential(logs: Tensor) -> Tensor:
    return logs.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).exp()


@dataclass(frozen=True, slots=True)
class Normalizer:
    """The counts of the whole batch, over all microbatches and ranks."""

    tokens: float
    """Trainable tokens."""
    sequences: float
    """Sequences; for `sequence_mean`, those with at least one trainable token."""
    constant_length: float | None = None
    """Aggregation `constant_length` needs it: the length every sequence is divided by, such as the longest response
    allowed."""


def aggregate(losses: Tensor, lengths: Tensor, aggregation: Aggregation, normalizer: Normalizer) -> Tensor:
    """The part of the batch's loss that these sequences contribute; contributions add up to the batch's loss.

        token_mean        sum of all tokens / tokens                            DAPO: every token counts alike
        sequence_mean     mean over sequences of their mean over tokens         GRPO: every sequence counts alike
        constant_length   sum of all tokens / (sequences * constant_length)     Dr. GRPO: no length bias

    Args:
        losses: (T,) per-token losses.
        lengths: (N,) tokens of each sequence.
    Returns:
        scalar, with the gradient of the losses.
    Raises:
        SettingError: an unknown aggregation, or `constant_length` without a positive one in the normalizer.
        ShapeError: lengths that do not add up to the losses (`sequence_mean`).
    """
    match aggregation:
        case "token_mean":
            return losses.sum() / max(normalizer.tokens, 1.0)
        case "sequence_mean":
            if int(lengths.sum()) != losses.numel():
                raise ShapeError(f"lengths add up to {int(lengths.sum())}, losses are {losses.numel()}")
            share = (1.0 / lengths.clamp(min=1)).repeat_interleave(lengths, output_size=losses.numel())
            return (losses * share).sum() / max(normalizer.sequences, 1.0)
        case "constant_length":
            length = normalizer.constant_length
            if length is None or not 0.0 < length < math.inf:
                raise SettingError(
                    f"aggregation 'constant_length' divides by Normalizer.constant_length, got {length}: set it to the "
                    "longest response allowed"
                )
            return losses.sum() / (max(normalizer.sequences, 1.0) * length)
        case _:
            raise SettingError(
                f"unknown aggregation {aggregation!r}; known: token_mean, sequence_mean, constant_length"
            )
