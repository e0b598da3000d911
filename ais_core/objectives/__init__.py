"""Computes the loss of each token by a named objective, and turns token losses into one number.

`registry` builds an objective from its name; `surrogates` has the formulas, `penalties` the divergence from a reference
and the entropy, `aggregation` the sums.
"""

from ais_core.objectives.aggregation import Normalizer, aggregate
from ais_core.objectives.penalties import entropy, reference_kl
from ais_core.objectives.registry import OBJECTIVES, Objective, Tokens, build
from ais_core.objectives.surrogates import TokenLosses, cispo, clipped, dppo, gspo, policy_gradient

__all__ = [
    "OBJECTIVES",
    "Normalizer",
    "Objective",
    "TokenLosses",
    "Tokens",
    "aggregate",
    "build",
    "cispo",
    "clipped",
    "dppo",
    "entropy",
    "gspo",
    "policy_gradient",
    "reference_kl",
]
