"""Score centring: a control variate from the full distributions of both policies (arXiv 2609.20807).

A sampled token's score, grad log proximal(y), has mean 0 under the proximal policy and not under the behaviour policy
that drew y. Uncorrected training therefore adds (V(prefix) - b) E_behaviour[grad log proximal] at every token: a drift
that knows nothing of the token, and that grows with the length of the answer relative to what the tokens are worth.
Centring takes that mean away, exactly:

    h(y) grad log proximal(y) - sum over v of behaviour(v) h(v) grad log proximal(v)

with h = 1, or h = min(r, cap). In logits, with h = 1, it is onehot - behaviour in place of onehot - proximal: the
gradient of the behaviour policy's own reward, passed on to the proximal policy's logits. No token's weight is near 0,
whatever its ratio. With h = r, uncapped, the mean is 0 already.

It needs the behaviour policy's log-probs of every token of the vocabulary, which engines do not return: a trainer
computes them by rounding as the engine rounds (`ais_core.numerics`).
"""

import math

import torch
from torch import Tensor

from ais_core.errors import ShapeError


def mean_scores(proximal: Tensor, behaviour: Tensor) -> Tensor:
    """The mean of log proximal under the behaviour policy, whose gradient is what centring takes away where h = 1.

    For a loss that has its sampled tokens' part already: add this to it, times advantage and weight.

    Args:
        proximal: (T, V) log-probs of every token at each sampled position, with their graph.
        behaviour: (T, V) log-probs of the policy that sampled; no gradient flows into them.
    Returns:
        (T,) of proximal's dtype, nats. A token that either policy cannot draw has no part in it.
    Raises:
        ShapeError: shapes that do not belong together.
    """
    if proximal.ndim != 2 or behaviour.shape != proximal.shape:
        raise ShapeError(f"expected log-probs (T, V) twice, got {tuple(proximal.shape)} and {tuple(behaviour.shape)}")
    possible = ~(behaviour.isneginf() | proximal.isneginf())
    mass = torch.where(possible, behaviour.detach().exp(), 0.0).to(proximal.dtype)
    return (mass * proximal.masked_fill(~possible, 0.0)).sum(1)


def centred_scores(proximal: Tensor, behaviour: Tensor, targets: Tensor, cap: float | None = None) -> Tensor:
    """What to take in place of the sampled tokens' log-probs in a loss: its gradient is the centred score.

    The value is h log proximal(y) less its mean under `behaviour`; only its gradient is meant to be used.

    Args:
        proximal: (T, V) log-probs of every token at each sampled position, with their graph.
        behaviour: (T, V) log-probs of the policy that sampled; no gradient flows into them.
        targets: (T,) int64, the tokens sampled.
        cap: None for h = 1; else h = min(proximal / behaviour, cap), detached.
    Returns:
        (T,) of proximal's dtype.
    Raises:
        ShapeError: shapes that do not belong together.
    """
    if proximal.ndim != 2 or behaviour.shape != proximal.shape or targets.shape != proximal.shape[:1]:
        raise ShapeError(
            f"expected log-probs (T, V) twice and targets (T,), got {tuple(proximal.shape)}, {tuple(behaviour.shape)} "
            f"and {tuple(targets.shape)}"
        )
    with torch.no_grad():
        possible = ~(behaviour.isneginf() | proximal.isneginf())
        weights = torch.ones_like(proximal)
        if cap is not None:
            weights = torch.where(possible, (proximal - behaviour).clamp(max=math.log(cap)).exp(), 0.0)
        mass = torch.where(possible, behaviour.exp() * weights, 0.0).to(proximal.dtype)
    # A token that a policy cannot draw has log-prob -inf and no part in the mean.
    mean = (mass * proximal.masked_fill(~possible, 0.0)).sum(1)
    place = targets[:, None]
    return weights.gather(1, place).squeeze(1) * proximal.gather(1, place).squeeze(1) - mean
