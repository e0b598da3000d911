"""What a run is: everything that its result depends on but the code."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ais.contracts.sampling import Precision
from ais_core.settings import CorrectionSettings, Level, MixingSettings

PRECISIONS: dict[str, Precision] = {
    "bf16": Precision(weights="bf16"),
    "w4a8": Precision(weights="e2m1", granularity="channel", activations="e4m3"),
    "e4m3": Precision(weights="e4m3", granularity="channel", activations="e4m3"),
    "e5m2": Precision(weights="e5m2", granularity="tensor", activations="e5m2", head=True),
}
PRECISIONS |= {
    f"{name}_ls": PRECISIONS[name].model_copy(update={"scales": "least_squares"}) for name in ("w4a8", "e4m3", "e5m2")
}
"""w4a8 is the stress: a mismatch that hurts in two minutes. The FP8 formats are what engines really serve."""

Uncorrected = Literal["proximal", "behaviour"]
Moves = Literal["behaviour", "proximal", "both"]
Order = Literal["proximal_behaviour", "behaviour_proximal"]


@dataclass(frozen=True)
class Method:
    """How a batch becomes a gradient."""

    correction: CorrectionSettings
    uncorrected: Uncorrected = "proximal"
    """Whose log-probs carry the (1 - alpha) branch: the BF16 policy's, as everywhere, or those of the quantised policy
    itself, computed by the trainer with straight-through rounding."""
    closeness: float = 0.0
    """Factor of the per-token KL between the two policies, nats to reward."""
    order: Order = "proximal_behaviour"
    """KL(first || second)."""
    moves: Moves = "behaviour"
    """Which policy the KL pulls towards the other."""
    weighted_baseline: bool = False
    """Whether a group's mean and deviation of the reward are taken under the weights."""
    split: bool = False
    """Whether each group is given to one branch only, by chance alpha, which costs one forward pass and not two."""


@dataclass(frozen=True)
class Experiment:
    """One run."""

    method: str
    precision: str
    seed: int
    task: str = "sort16"
    steps: int = 120

    @property
    def key(self) -> dict[str, Any]:
        return asdict(self)


def _ais(level: Level = "adaptive", **mixing: Any) -> CorrectionSettings:
    return CorrectionSettings(method="ais", level=level, mixing=MixingSettings(evaluation="same_batch", **mixing))


def _constant(alpha: float, **mixing: Any) -> CorrectionSettings:
    settings = MixingSettings(rule="constant", alpha_max=alpha, evaluation="same_batch", **mixing)
    return CorrectionSettings(method="ais", level="sequence", truncate_tokens=False, mixing=settings)


NONE = CorrectionSettings(method="none")
SEQUENCE = CorrectionSettings(method="tis", level="sequence")

METHODS: dict[str, Method] = {
    "none": Method(NONE),
    "tis_sequence": Method(SEQUENCE),
    "plateau_1": Method(_ais()),
    "plateau_0.8": Method(_ais(alpha_max=0.8)),
    "constant_0.5": Method(_constant(0.5)),
    "constant_0.75": Method(_constant(0.75)),
    "constant_0.9": Method(_constant(0.9)),
    # The rule at fixed levels: plateau_1 and plateau_0.8 choose theirs.
    "plateau_token": Method(_ais("token")),
    "plateau_prefix": Method(_ais("prefix")),
    "plateau_geometric": Method(_ais("geometric")),
    "plateau_sequence": Method(_ais("sequence")),
    # Both branches honest: the uncorrected one is the gradient of the quantised policy itself.
    "honest_0": Method(_constant(0.0), uncorrected="behaviour"),
    "honest_0.5": Method(_constant(0.5), uncorrected="behaviour"),
    "honest_0.75": Method(_constant(0.75), uncorrected="behaviour"),
    "honest_0.9": Method(_constant(0.9), uncorrected="behaviour"),
    "honest_plateau_1": Method(_ais(), uncorrected="behaviour"),
    "honest_plateau_0.8": Method(_ais(alpha_max=0.8), uncorrected="behaviour"),
    "honest_split_0.75": Method(_constant(0.75), uncorrected="behaviour", split=True),
    "honest_split_0.5": Method(_constant(0.5), uncorrected="behaviour", split=True),
    # Full correction, and the quantised policy kept close to the BF16 one.
    "close_0.01": Method(SEQUENCE, closeness=0.01),
    "close_0.03": Method(SEQUENCE, closeness=0.03),
    "close_0.1": Method(SEQUENCE, closeness=0.1),
    "close_0.3": Method(SEQUENCE, closeness=0.3),
    "close_1": Method(SEQUENCE, closeness=1.0),
    "close_reverse_0.1": Method(SEQUENCE, closeness=0.1, order="behaviour_proximal"),
    "close_reverse_0.3": Method(SEQUENCE, closeness=0.3, order="behaviour_proximal"),
    "close_both_0.1": Method(SEQUENCE, closeness=0.1, moves="both"),
    "close_both_0.3": Method(SEQUENCE, closeness=0.3, moves="both"),
    "close_plateau_0.1": Method(_ais(), closeness=0.1),
    "close_plateau_0.3": Method(_ais(), closeness=0.3),
    # The quantised policy improved on its own samples, the BF16 one pulled after it: no ratio at all.
    "mutual_0.1": Method(_constant(0.0), "behaviour", 0.1, "behaviour_proximal", "both"),
    "mutual_0.3": Method(_constant(0.0), "behaviour", 0.3, "behaviour_proximal", "both"),
    "follow_0.1": Method(_constant(0.0), "behaviour", 0.1, "behaviour_proximal", "proximal"),
    "follow_0.3": Method(_constant(0.0), "behaviour", 0.3, "behaviour_proximal", "proximal"),
    # Both.
    "honest_close_0.5": Method(_constant(0.5), "behaviour", 0.1),
    "honest_close_0.75": Method(_constant(0.75), "behaviour", 0.1),
    # Changes that need no second forward pass.
    "bound_0.75": Method(_constant(0.75, uncorrected_bound=4.0)),
    "bound_plateau_0.8": Method(_ais(alpha_max=0.8, uncorrected_bound=4.0)),
    "bound_plateau_1": Method(_ais(uncorrected_bound=4.0)),
    "baseline_tis": Method(SEQUENCE, weighted_baseline=True),
    "baseline_0.75": Method(_constant(0.75), weighted_baseline=True),
}
"""The methods compared, by name."""
