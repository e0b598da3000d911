"""Holds the settings of every objective, each with its own defaults. Standard library only, like `ais_core.settings`.

`ais_core.objectives` has the formulas.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from ais_core.errors import SettingError
from ais_core.settings import UNKNOWN_KEYS

ObjectiveName = Literal["ppo_clip", "gspo", "cispo", "dppo", "policy_gradient"]
Aggregation = Literal["token_mean", "sequence_mean", "constant_length"]
Advantage = Literal["grpo", "dr_grpo", "rloo", "reinforce++"]
Estimator = Literal["k1", "k2", "k3"]
Divergence = Literal["total_variation", "kl"]


@dataclass(frozen=True, slots=True)
class PPOClip:
    """Objective `ppo_clip`: the token's ratio is clipped. PPO, GRPO; DAPO with a larger clip_high."""

    __pydantic_config__: ClassVar[dict[str, str]] = UNKNOWN_KEYS

    clip_low: float = 0.2
    """The current policy's ratio to the proximal one is clipped at 1 - clip_low."""

    clip_high: float = 0.2
    """... and at 1 + clip_high. Neither acts when one update is made per batch: the ratio is 1. DAPO: 0.28."""

    dual_clip: float | None = None
    """Bounds the loss of a token with negative advantage A by this times -A; above 1, usually 3. None: no bound."""

    def __post_init__(self) -> None:
        _check_clip(self.clip_low, self.clip_high, 1.0)
        if self.dual_clip is not None and not 1.0 < self.dual_clip < math.inf:
            raise SettingError(f"dual_clip must be above 1 and finite, got {self.dual_clip}")


@dataclass(frozen=True, slots=True)
class GSPO:
    """Objective `gspo`: the geometric mean of a sequence's ratios is clipped. Pair it with `sequence_mean`."""

    __pydantic_config__: ClassVar[dict[str, str]] = UNKNOWN_KEYS

    clip_low: float = 3e-4
    """The sequence's ratio is clipped at 1 - clip_low."""

    clip_high: float = 4e-4
    """... and at 1 + clip_high. Both are the paper's: a mean over tokens varies far less than a token."""

    def __post_init__(self) -> None:
        _check_clip(self.clip_low, self.clip_high, 1.0)


@dataclass(frozen=True, slots=True)
class CISPO:
    """Objective `cispo`: the clipped ratio is a weight, so that no token loses its gradient."""

    __pydantic_config__: ClassVar[dict[str, str]] = UNKNOWN_KEYS

    clip_low: float = 1.0
    """The ratio that weighs a token is at least 1 - clip_low; 1 sets no lower bound, as in the paper."""

    clip_high: float = 2.0
    """... and at most 1 + clip_high."""

    def __post_init__(self) -> None:
        _check_clip(self.clip_low, self.clip_high, 1.0)


@dataclass(frozen=True, slots=True)
class DPPO:
    """Objective `dppo`: a token that is far from the policy that sampled it and would move further is masked."""

    __pydantic_config__: ClassVar[dict[str, str]] = UNKNOWN_KEYS

    divergence: Divergence = "total_variation"
    """How far the token has moved: the difference of its probabilities, or the KL divergence of the two-way choice
    between this token and all others."""

    threshold_low: float = 0.2
    """The divergence from which a token with negative advantage may not become less likely. For kl take 0.05."""

    threshold_high: float = 0.2
    """The divergence from which a token with positive advantage may not become more likely. For kl take 0.05."""

    ratio_cap: float = 20.0
    """The ratio to the proximal policy is truncated here."""

    def __post_init__(self) -> None:
        for name in ("threshold_low", "threshold_high"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise SettingError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 1.0 <= self.ratio_cap < math.inf:
            raise SettingError(f"ratio_cap must be 1 or more, and finite, got {self.ratio_cap}")


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """Objective `policy_gradient`: REINFORCE, without a ratio. It has no settings."""

    __pydantic_config__: ClassVar[dict[str, str]] = UNKNOWN_KEYS


ObjectiveSettings = PPOClip | GSPO | CISPO | DPPO | PolicyGradient


def _check_clip(low: float, high: float, lowest: float) -> None:
    if not 0.0 < low <= lowest:
        raise SettingError(f"clip_low must be above 0 and at most {lowest:g}, got {low}")
    if not 0.0 < high < math.inf:
        raise SettingError(f"clip_high must be positive and finite, got {high}")
