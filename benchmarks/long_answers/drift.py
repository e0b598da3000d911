"""What a correction leaves of the drift, at a language model that stays as it is: sums per group, and what they say.

A token's score in the logits is onehot - proximal, and its mean under the policy that sampled is not 0. With a weight
h(v) of each token that might have been drawn, a method's gradient in the logits is in expectation

    E[A sum over t of (onehot - behaviour)]                                       the signal, centred
    + E[A sum over t of sum over v of behaviour(v) h(v) (onehot_v - proximal)]    the drift, for h = 1

(`ais_core.centring`). The second is known exactly at every prefix from both distributions, so only prefixes are drawn.
Both are taken in a bias added to the logits, of one number for each token of the vocabulary: the part of the parameters
whose gradient needs no backward pass.

Groups are independent, so a product of means is estimated without bias by pairs of different groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CAPS: Mapping[str, float | None] = {"none": None, "tis_2": 2.0, "tis_8": 8.0}
"""Weights by name: h = 1, or min(r, cap)."""
SIGNAL = "signal"


def token_terms(proximal: Tensor, behaviour: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The terms of every token before the advantage: the centred score, and the drift of each of `CAPS`.

    Args:
        proximal, behaviour: (T, V) log-probs.
        targets: (T,) int64, the tokens drawn.
    Returns:
        By name, (T, V).
    """
    likely, drawn = proximal.exp(), behaviour.exp()
    signal = -drawn
    signal[torch.arange(len(targets), device=targets.device), targets] += 1.0
    terms = {SIGNAL: signal}
    for name, cap in CAPS.items():
        mass = drawn
        if cap is not None:
            mass = drawn * (proximal - behaviour).clamp(max=math.log(cap)).exp()
        terms[name] = mass - mass.sum(1, keepdim=True) * likely
    return terms


def up_to(terms: Mapping[str, Tensor], lengths: Sequence[int]) -> dict[str, Tensor]:
    """Sums over the first tokens: by name, (len(lengths), V). Lengths rise; an answer that is shorter ends earlier."""
    found = {}
    for name, values in terms.items():
        parts = [values[begin:end].sum(0) for begin, end in zip((0, *lengths), lengths, strict=False)]
        found[name] = torch.stack(parts).cumsum(0)
    return found


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error, by leaving out one group at a time."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.1g}"


def bias(signal: Tensor, drift: Tensor) -> tuple[Estimate, Estimate]:
    """Length of the drift relative to the signal, and the cosine of their sum with the signal.

    Args:
        signal, drift: (G, V), of each of G groups, at least 3.
    """
    stacked = torch.stack([signal, drift]).double()
    sums = stacked.sum(1)
    within = torch.einsum("igv,jgv->gij", stacked, stacked)
    total, own = sums @ sums.T, within.sum(0)
    with_others = torch.einsum("igv,jv->gij", stacked, sums)
    figures = []
    for group in range(len(signal)):
        # What is left without the group: its products with all others go, both ways, and its own were never in.
        crossed = with_others[group]
        products = total - crossed - crossed.T + within[group] - (own - within[group])
        figures.append(_figures(products))
    value = torch.tensor(_figures(total - own), dtype=torch.float64)
    apart = torch.tensor(figures, dtype=torch.float64)
    number = len(apart)
    errors = ((number - 1) / number * (apart - apart.mean(0)).square().sum(0)).sqrt()
    relative, cosine = (Estimate(float(v), float(e)) for v, e in zip(value, errors, strict=True))
    return relative, cosine


def _figures(products: Tensor) -> tuple[float, float]:
    """Relative length and cosine from (2, 2) products of signal and drift, on one scale. A square that noise makes
    negative is 0, and a figure that has no signal to compare with is not a number."""
    signal, drift = (max(0.0, float(products[i, i])) for i in (0, 1))
    crossed = float(products[0, 1] + products[1, 0]) / 2
    both = signal + 2 * crossed + drift
    if signal == 0.0 or both <= 0.0:
        return math.nan, math.nan
    return math.sqrt(drift / signal), (signal + crossed) / math.sqrt(signal * both)
