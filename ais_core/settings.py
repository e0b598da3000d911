"""Holds every setting of the library, and is the only place where a default lives.

Standard library only. The dataclasses are frozen and check themselves, so that a wrong value fails where it is written.
The string under each field says what it means, and documentation of settings files is made from these strings.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ais_core.errors import SettingError

Method = Literal[
    "none",
    "tis",
    "mis",
    "icepop",
    "sequence_mask",
    "geometric_mask",
    "k1",
    "k2",
    "k3",
    "opsm",
    "m2po",
    "vcpo",
    "ais",
    "handover",
]
Level = Literal["token", "prefix", "sequence", "tempered", "geometric", "adaptive"]
Statistic = Literal["ratio", "k1", "k2", "k3"]
Over = Literal["token", "sequence_sum", "sequence_mean", "sequence_max"]
Rule = Literal[
    "plateau",
    "constant",
    "effective_sample",
    "severity",
    "amplification",
    "severity_effective_sample",
    "severity_effective_sample_variation",
    "severity_reliability",
    "product",
    "bias_noise",
    "shrinkage",
    "alarm",
    "capped_alarm",
    "capped_smooth_alarm",
    "capped_severity_alarm",
]
Evaluation = Literal["previous_batch", "same_batch"]

UNKNOWN_KEYS = {"extra": "forbid"}
"""Read by pydantic when these dataclasses are nested in a pydantic model: a misspelt key is an error there too."""

EXPONENT_LIMIT = 20.0
"""Log-weights are clamped to +-20 before `exp`, the field's common guard: e^20 = 4.9e8 squares safely in float64."""


@dataclass(frozen=True, slots=True)
class RejectionSettings:
    """Give weight 0 to what lies outside `[lower, upper]`; keep the rest as it is."""

    __pydantic_config__: ClassVar[dict[str, str]] = UNKNOWN_KEYS

    statistic: Statistic = "ratio"
    """The statistic that is bounded: the ratio r itself, k1 = -log r, k2 = (log r)^2 / 2, or k3 = r - 1 - log r."""

    over: Over = "token"
    """The tokens that the bounds apply to: each `token` alone, or a whole sequence by the sum, mean or maximum of the
    statistic over its tokens. A `ratio` is summed and averaged in the logarithm: product of the ratios, and their
    geometric mean."""

    lower: float = -math.inf
    """The smallest value kept. For k1 this bounds -log r itself, sign included."""

    upper: float = math.inf
    """The largest value kept."""

    def __post_init__(self) -> None:
        if math.isnan(self.lower) or math.isnan(self.upper) or self.lower > self.upper:
            raise SettingError(f"rejection bounds must satisfy lower <= upper, got [{self.lower}, {self.upper}]")
        if math.isinf(self.lower) and math.isinf(self.upper):
            raise SettingError(f"a rejection on {self.statistic}/{self.over} needs a finite lower or upper bound")


@dataclass(frozen=True, slots=True)
class MixingSettings:
    """The rule that chooses alpha in `h = (1 - alpha) * uncorrected + alpha * weight` on each batch."""

    __pydantic_config__: ClassVar[dict[str, str]] = UNKNOWN_KEYS

    rule: Rule = "plateau"
    """The rule of `ais_core.mixing` that turns the three diagnostics into alpha."""

    alpha_max: float = 1.0
    """The dial between the two policies, and the largest alpha allowed. 1 optimises the BF16 policy that is trained; 0
    optimises the quantised policy that samples; between, the mixture (1 - alpha) J(behaviour) + alpha J(proximal)."""

    severity_scale: float = 0.02
    """Mean |log ratio| in nats per token at which severity is one half: below it the mismatch is treated as noise."""

    effective_sample_floor: float = 0.5
    """The least effective sample size that the mixed weights may leave, as a share of the batch. An estimate with
    rejections or `uncorrected_bound`."""

    amplification_batch: float = 4.0
    """Effective sequences beyond the first at which the trust in the raw weights is one half."""

    variation_scale: float = 1.0
    """CV of the raw weights that counts as large; only the rules `product`, `severity_effective_sample_variation` and
    the alarms look at it."""

    noise_weight: float = 0.05
    """The weight of variance against bias; only the rules `shrinkage`, `bias_noise` and `severity_reliability` look
    at it."""

    mismatch_limit: float = 1.0
    """Mean |log ratio| in nats per token above which ratios say nothing and the plan of any method is marked untrusted.
    alpha falls linearly to 0 between this and twice this."""

    uncorrected_share: float = 0.25
    """`handover` only: the part of every token's weight that stays 1, whatever the ratios say."""

    uncorrected_bound: float | None = None
    """`ais` only: bound the uncorrected branch by min(1, this * r) per token, so that a token the trained policy finds
    very unlikely is not pushed at full weight. None leaves the branch at 1. The study of the rule used 4. With a bound
    the effective sample, its floor and the plan's effect are estimates."""

    evaluation: Evaluation = "previous_batch"
    """`previous_batch` takes alpha from the batches before: no pass over the batch ahead of its weights, and alpha is
    independent of the batch it weighs. `same_batch` takes it from the batch itself."""

    memory: float = 0.0
    """Share kept of the earlier batches' statistics when a new batch arrives (exponential moving average); 0 is the
    last batch only."""

    def __post_init__(self) -> None:
        _check("alpha_max", self.alpha_max, 0.0 <= self.alpha_max <= 1.0, "in [0, 1]")
        _check("severity_scale", self.severity_scale, 0 < self.severity_scale < math.inf, "positive and finite")
        _check(
            "effective_sample_floor",
            self.effective_sample_floor,
            0.0 < self.effective_sample_floor < 1.0,
            "between 0 and 1, both excluded",
        )
        batch, variation, noise = self.amplification_batch, self.variation_scale, self.noise_weight
        _check("amplification_batch", batch, 0 <= batch < math.inf, "0 or more, and finite")
        _check("variation_scale", variation, 0 < variation < math.inf, "positive and finite")
        _check("noise_weight", noise, 0 <= noise < math.inf, "0 or more, and finite")
        _check("mismatch_limit", self.mismatch_limit, self.mismatch_limit > 0, "positive (inf switches it off)")
        _check("uncorrected_share", self.uncorrected_share, 0.0 <= self.uncorrected_share <= 1.0, "in [0, 1]")
        if self.uncorrected_bound is not None:
            bound = self.uncorrected_bound
            _check("uncorrected_bound", bound, 0 < bound < math.inf, "positive and finite, or None")
        _check("memory", self.memory, 0.0 <= self.memory < 1.0, "in [0, 1)")


@dataclass(frozen=True, slots=True)
class CorrectionSettings:
    """The correction to apply, and its bounds. See `ais_core.corrections` for the formula of each method."""

    __pydantic_config__: ClassVar[dict[str, str]] = UNKNOWN_KEYS

    method: Method = "ais"
    """The correction, by the name of the literature."""

    level: Level | None = None
    """Over which tokens a weight multiplies ratios: one `token`; the `prefix` up to it; the whole `sequence`; the
    sequence product to the power `temper`; the `geometric` mean; `adaptive`, blocks as long as their effective sample
    allows. None takes the method's own (`DEFAULT_LEVELS`)."""

    cap: float = 2.0
    """Weights are truncated at this value (C in the literature)."""

    truncate_tokens: bool | None = None
    """Truncate each token's ratio at `cap` before they are multiplied, as well as the product after it. None means yes
    for `ais` and `handover`, no for the others."""

    temper: float = 0.5
    """The exponent of level `tempered`: weight = exp(temper * sum of log ratios). Other levels ignore it."""

    self_normalised: bool = False
    """Divide the weights by their mean over the tokens that `rejections` leave in, as verl does with
    `rollout_is_batch_normalize`: what is left is which tokens count more, and not a smaller step. Weights may then be
    above `cap`; the zeros of `mis` and `icepop` are among those that the mean is of. Left out where most weights are
    beyond the exponent limit. The batch is measured before it is weighed."""

    lower: float | None = None
    """Lower bound of `mis`, `icepop`, `sequence_mask`, `geometric_mask`, `k1`, `k2`, `k3`. None takes the method's own
    (`DEFAULT_BOUNDS`)."""

    upper: float | None = None
    """Upper bound of the same methods, and the threshold of `opsm` (mean -log r of a sequence with negative advantage)
    and of `m2po` (mean squared log ratio). None takes the method's own."""

    over: Over | None = None
    """The tokens over which `k1`, `k2` and `k3` are measured. None means `token`."""

    rejections: tuple[RejectionSettings, ...] = ()
    """Further rejections, applied on top of any method (token truncation with sequence rejection, for instance)."""

    learning_rate_base: float = 1.0
    """`vcpo` only: the effective-sample ratio of raw sequence ratios at which the learning rate is not reduced; the
    paper takes that of on-policy sampling. Below it the rate falls with the root of the ratio."""

    mixing: MixingSettings = field(default_factory=MixingSettings)
    """`ais` and `handover` only: how alpha is chosen."""

    def __post_init__(self) -> None:
        _check("cap", self.cap, self.cap >= 1.0, "1 or more (a smaller cap would truncate identical policies)")
        _check("temper", self.temper, 0.0 <= self.temper <= 1.0, "in [0, 1]")
        _check("learning_rate_base", self.learning_rate_base, 0.0 < self.learning_rate_base <= 1.0, "in (0, 1]")
        if self.level is not None and self.method not in WEIGHTED:
            raise SettingError(f"method {self.method!r} weighs nothing and has no level")
        if self.level == "adaptive" and self.method != "ais":
            raise SettingError(f"level 'adaptive' belongs to method 'ais', not to {self.method!r}")
        if self.method == "handover" and self.mixing.uncorrected_bound is not None:
            raise SettingError("`uncorrected_bound` belongs to method 'ais'; 'handover' has `uncorrected_share`")
        if self.self_normalised and self.method not in WEIGHTED:
            raise SettingError(f"method {self.method!r} weighs nothing, so there is nothing to normalise")
        if self.self_normalised and self.mixing.uncorrected_bound is not None:
            raise SettingError("`self_normalised` needs the mean of the weights, which `uncorrected_bound` hides")
        bounded = self.method in DEFAULT_BOUNDS
        if not bounded and (self.lower is not None or self.upper is not None):
            raise SettingError(f"method {self.method!r} has no bounds; leave lower and upper out, or add a rejection")
        if self.lower is not None and self.method in ("opsm", "m2po"):
            raise SettingError(f"method {self.method!r} has a single threshold: set upper, leave lower out")
        if self.over is not None and self.method not in ("k1", "k2", "k3"):
            raise SettingError(f"`over` belongs to k1, k2 and k3, not to {self.method!r}")
        if bounded:
            lower, upper = self.bounds
            if not lower <= upper:
                raise SettingError(f"bounds of {self.method!r} must satisfy lower <= upper, got [{lower}, {upper}]")

    @property
    def weight_level(self) -> Level:
        """The level in force: the one set, else the method's own."""
        return self.level or DEFAULT_LEVELS.get(self.method, "token")

    @property
    def tokens_truncated(self) -> bool:
        """Whether token ratios are truncated before they are multiplied."""
        return self.method in MIXING if self.truncate_tokens is None else self.truncate_tokens

    @property
    def bounds(self) -> tuple[float, float]:
        """The method's bounds: those set, else its own. Raises KeyError for a method without bounds."""
        lower, upper = DEFAULT_BOUNDS[self.method]
        return (lower if self.lower is None else self.lower, upper if self.upper is None else self.upper)


MIXING = ("ais", "handover")
"""The methods that mix a weighted gradient with another by alpha."""

WEIGHTED = ("tis", "mis", "icepop", "vcpo", *MIXING)
"""The methods that weigh by a ratio; the others only decide what is kept."""

DEFAULT_LEVELS: dict[str, Level] = {"vcpo": "sequence", "ais": "sequence", "handover": "sequence"}
"""The level of a method that names none; the others weigh single tokens.

AIS was compared by reinforcement learning at 17 and 49 tokens: at 49 `adaptive` lost the policy in two seeds of four,
`sequence` in none."""

DEFAULT_BOUNDS: dict[str, tuple[float, float]] = {
    "mis": (0.5, 5.0),
    "icepop": (0.5, 5.0),
    "sequence_mask": (0.0, 3.0),
    "geometric_mask": (0.999, 1.001),
    "k1": (-math.inf, 1.0),
    "k2": (0.0, 0.5),
    "k3": (0.0, 0.5),
    "opsm": (-math.inf, 1e-4),
    "m2po": (0.0, 0.04),
}
"""The bounds each method has in the literature: IcePop's (0.5, 5), which `mis` shares (the masks of TRL and of Liu, Li
et al. have an upper bound alone: lower 0); TRL's sequence mask 3; verl's geometric rejection; OPSM's 1e-4 as in slime;
M2PO's 0.04. The bounds of k1, k2 and k3 are ours: the literature has no common ones."""


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise SettingError(f"{name} must be {expected}, got {value}")
