"""Holds the registry of objectives: from a name and its settings to the losses of a batch's tokens.

objective = build("gspo", GSPO(clip_low=3e-4))
losses, bounded = objective(Tokens(...))
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ais_core.errors import SettingError
from ais_core.objective_settings import CISPO, DPPO, GSPO, ObjectiveSettings, PolicyGradient, PPOClip
from ais_core.objectives import surrogates
from ais_core.objectives.surrogates import TokenLosses


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an objective may look at: (T,) tokens of N sequences, laid end to end."""

    current: Tensor
    """Log-probs of the policy that is optimised, with the gradient."""
    proximal: Tensor
    """Log-probs at the start of the step."""
    behaviour: Tensor
    """Log-probs of the policy that sampled."""
    advantages: Tensor
    weights: Tensor
    """`Correction.weights`: behaviour to proximal."""
    lengths: Tensor
    """(N,): tokens of each sequence."""


Objective = Callable[[Tokens], TokenLosses]


def _ppo_clip(tokens: Tokens, settings: PPOClip) -> TokenLosses:
    return surrogates.ppo_clip_losses(tokens.current, tokens.proximal, tokens.advantages, tokens.weights, settings)


def _gspo(tokens: Tokens, settings: GSPO) -> TokenLosses:
    return surrogates.gspo_losses(
        tokens.current, tokens.proximal, tokens.advantages, tokens.weights, tokens.lengths, settings
    )


def _cispo(tokens: Tokens, settings: CISPO) -> TokenLosses:
    losses = surrogates.cispo(
        tokens.current, tokens.proximal, tokens.advantages, tokens.weights, settings.clip_low, settings.clip_high
    )
    change = torch.expm1((tokens.current - tokens.proximal).detach())
    return TokenLosses(losses, (change < -settings.clip_low) | (change > settings.clip_high))


def _dppo(tokens: Tokens, settings: DPPO) -> TokenLosses:
    losses = surrogates.dppo(
        tokens.current, tokens.proximal, tokens.behaviour, tokens.advantages, tokens.weights, **asdict(settings)
    )
    bounds = (settings.divergence, settings.threshold_low, settings.threshold_high)
    return TokenLosses(losses, surrogates.too_far(tokens.current, tokens.behaviour, tokens.advantages, *bounds))


def _policy_gradient(tokens: Tokens, _settings: PolicyGradient) -> TokenLosses:
    losses = surrogates.policy_gradient(tokens.current, tokens.advantages, tokens.weights)
    return TokenLosses(losses, torch.zeros_like(losses, dtype=torch.bool))


OBJECTIVES: Mapping[str, tuple[type[ObjectiveSettings], Callable[[Tokens, Any], TokenLosses]]] = {
    "ppo_clip": (PPOClip, _ppo_clip),
    "gspo": (GSPO, _gspo),
    "cispo": (CISPO, _cispo),
    "dppo": (DPPO, _dppo),
    "policy_gradient": (PolicyGradient, _policy_gradient),
}
"""Each objective's settings and function, by name."""


def build(name: str, settings: ObjectiveSettings | None = None) -> Objective:
    """The objective of that name, with its defaults where no settings are given.

    Raises SettingError for a name that is none, naming those there are, and for the settings of another objective.
    """
    if name not in OBJECTIVES:
        raise SettingError(f"unknown objective {name!r}; known: {', '.join(OBJECTIVES)}")
    kind, losses = OBJECTIVES[name]
    own = kind() if settings is None else settings
    if not isinstance(own, kind):
        raise SettingError(f"objective {name!r} takes settings of type {kind.__name__}, got {type(own).__name__}")
    return lambda tokens: losses(tokens, own)
