"""Turns the rewards of a batch into advantages, which multiply the losses of each sequence's tokens.

Rewards are per sequence, and a group is the sequences of one prompt. Everything is computed from whole groups (or,
where a formula says so, the whole batch), so call these before a batch is cut into microbatches.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ais_core.errors import NonFiniteError, SettingError, ShapeError

EPSILON = 1e-6
"""Added to a standard deviation before dividing, as in the reference implementations."""


def grpo(rewards: Tensor, groups: Tensor) -> Tensor:
    """(reward - mean of the group) / (standard deviation of the group + epsilon).

    Group Relative Policy Optimization, DeepSeekMath (arXiv 2402.03300), outcome supervision; the standard
    deviation has n - 1 degrees of freedom, as in TRL and verl. A group of one, or of equal rewards, gets 0.

    Args:
        rewards: (N,) finite floats.
        groups: (N,) integers, equal for sequences of one prompt; in any order.
    Returns:
        (N,) float32.
    Raises:
        ShapeError, NonFiniteError: rewards and groups that do not fit, or rewards that are not finite.
    """
    centred, index, count = _centred(rewards, groups)
    variance = _group_sum(centred.square(), index, count) / (count - 1).clamp(min=1)
    return (centred / (variance.sqrt()[index] + EPSILON)).float()


def dr_grpo(rewards: Tensor, groups: Tensor) -> Tensor:
    """reward - mean of the group, not divided: dividing weighs prompts by their difficulty.

    "Understanding R1-Zero-like training" (arXiv 2503.20783). Pair it with the `constant_length` aggregation. Arguments
    and errors as `grpo`.
    """
    centred, _, _ = _centred(rewards, groups)
    return centred.float()


def rloo(rewards: Tensor, groups: Tensor) -> Tensor:
    """reward - mean of the others of the group = n / (n - 1) * (reward - mean of the group).

    REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al., arXiv 2402.14740): unbiased. A group of one has no
    others and gets 0. Arguments and errors as `grpo`.
    """
    centred, index, count = _centred(rewards, groups)
    return (centred * (count / (count - 1).clamp(min=1))[index]).float()


def reinforce_plus_plus(rewards: Tensor, groups: Tensor) -> Tensor:
    """(reward - mean of the group), standardised over the sequences of the whole batch.

    REINFORCE++ with the group baseline (arXiv 2501.03262). verl standardises over tokens instead, so that there long
    answers weigh more in mean and variance, and divides by sqrt(variance + 1e-8). Arguments and errors as `grpo`.
    """
    centred, _, _ = _centred(rewards, groups)
    deviation = centred.std() if centred.numel() > 1 else centred.new_zeros(())
    return ((centred - centred.mean()) / (deviation + EPSILON) if centred.numel() else centred).float()


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce++": reinforce_plus_plus,
}
"""The estimators by name."""


def estimate(name: str, rewards: Tensor, groups: Tensor) -> Tensor:
    """Advantages by the estimator of that name. Raises SettingError naming those there are."""
    if name not in ESTIMATORS:
        raise SettingError(f"unknown advantage estimator {name!r}; known: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name](rewards, groups)


def _centred(rewards: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards less their group's mean (float64), each sequence's group number, and the size of each group."""
    if rewards.is_meta or groups.is_meta:
        raise ShapeError("rewards or groups are on the meta device and hold no values")
    if rewards.ndim != 1 or groups.shape != rewards.shape:
        raise ShapeError(f"rewards and groups are (N,), got {tuple(rewards.shape)} and {tuple(groups.shape)}")
    if not torch.isfinite(rewards).all():
        raise NonFiniteError(f"{int((~torch.isfinite(rewards)).sum())} of {rewards.numel()} rewards are not finite")
    _, index, count = torch.unique(groups, return_inverse=True, return_counts=True)
    values = rewards.detach().double()
    return values - (_group_sum(values, index, count) / count)[index], index, count


def _group_sum(values: Tensor, index: Tensor, count: Tensor) -> Tensor:
    return values.new_zeros(count.numel()).index_add_(0, index, values)
