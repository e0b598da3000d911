"""What each correction's expected gradient is in the chain, and what a batch of it is worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import ais_core
from ais_core import CorrectionSettings, MixingSettings, SequenceBatch
from benchmarks.long_answers.chain import Chain, Sequences, draw, exact, of_token_weights

BATCH = 256
ALPHA_TOKENS = 1 << 22
"""Tokens of the batches, at most, that alpha is measured on."""
SAME = MixingSettings(evaluation="same_batch")
MIXTURES = {
    "ais": CorrectionSettings(mixing=SAME),
    "ais_token": CorrectionSettings(level="token", mixing=SAME),
    "handover": CorrectionSettings(method="handover", mixing=SAME),
}
CAP = 2.0


@dataclass(frozen=True)
class Quality:
    """An expected gradient m against the exact one g."""

    method: str
    bias: float
    """|m - g| / |g|."""
    cosine: float
    efficiency: float
    """(m . g)^2 / ((|m|^2 + V / 256) |g|^2), with V the variance of a sequence's part: the squared cosine that a batch
    of 256 sequences has with g, whatever the length of m."""
    alpha: float | None


def qualities(chain: Chain, sequences: int, seed: int) -> list[Quality]:
    """Every method in one chain. Gradients of token weights are exact; those of sequence weights, variances and alpha
    come from `sequences` drawn answers."""
    generator = torch.Generator().manual_seed(seed)
    drawn = draw(chain, sequences, generator)
    truth = exact(chain)
    ratio = chain.log_ratio.exp()
    one, token = torch.ones_like(ratio), ratio.clamp(max=CAP)
    advantages = drawn.rewards - chain.survival(chain.sampled) ** chain.tokens
    plain = drawn.scores(chain, one) * advantages[:, None]
    by_token = drawn.scores(chain, token) * advantages[:, None]
    weight = drawn.log_weights(chain, CAP).clamp(-20, 20).exp().clamp(max=CAP)[:, None]
    alphas = {name: alpha(settings, chain, drawn) for name, settings in MIXTURES.items()}

    found: dict[str, tuple[Tensor, ...]] = {
        "none": (of_token_weights(chain, one), plain),
        "tis_token": (of_token_weights(chain, token), by_token),
        "centred": (of_token_weights(chain, one, centred=True), drawn.centred_scores(chain, one) * advantages[:, None]),
        "centred_tis_token": (
            of_token_weights(chain, token, centred=True),
            drawn.centred_scores(chain, token) * advantages[:, None],
        ),
    }
    # The mean of (w - c) x + c x, with the mean of x known exactly: what is drawn is only the difference.
    centre = weight.mean()
    found["tis_sequence"] = (((weight - centre) * plain).mean(0) + centre * found["none"][0], weight * plain)
    a = alphas["ais"][0]
    found["ais"] = (
        (1 - a) * found["none"][0] + a * found["tis_sequence"][0],
        (1 - a) * plain + a * weight * plain,
    )
    a = alphas["ais_token"][0]
    found["ais_token"] = ((1 - a) * found["none"][0] + a * found["tis_token"][0], (1 - a) * plain + a * by_token)
    a, s = alphas["handover"]
    found["handover"] = (
        (1 - s) * found["none"][0] + s * ((1 - a) * found["tis_token"][0] + a * found["tis_sequence"][0]),
        (1 - s) * plain + s * ((1 - a) * by_token + a * weight * plain),
    )
    found["anchor"] = (
        (1 - a) * found["tis_token"][0] + a * found["tis_sequence"][0],
        (1 - a) * by_token + a * weight * plain,
    )
    found["centred_handover"] = tuple(
        ours + (1 - s) * (found["centred"][part] - found["none"][part]) for part, ours in enumerate(found["handover"])
    )
    return [
        Quality(name, *compare(mean, parts, truth), alphas[name][0] if name in alphas else None)
        for name, (mean, parts) in found.items()
    ]


def alpha(settings: CorrectionSettings, chain: Chain, drawn: Sequences) -> tuple[float, float]:
    """alpha, and the corrected part of a hand-over, on the first batch of `drawn`.

    Of a batch too large to write out, it takes as many sequences as there is room for.
    """
    number = min(BATCH, max(ALPHA_TOKENS // chain.tokens, 2), len(drawn.rewards))
    counts = drawn.counts[:number].flatten(1).long()
    logs = chain.log_ratio.flatten().float().expand(number, -1).flatten().repeat_interleave(counts.flatten())
    batch = SequenceBatch.packed(logs, counts.sum(1))
    correction = ais_core.build(settings)
    plan, _ = correction.plan(correction.measure(batch), None)
    assert plan.alpha is not None
    return plan.alpha, plan.corrected


def compare(mean: Tensor, parts: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Bias, cosine and efficiency: see `Quality`. `parts` [n, parameters] are those of single sequences."""
    variance = parts.var(0).sum()
    along = mean @ truth
    square = truth @ truth
    return (
        float((mean - truth).norm() / square.sqrt()),
        float(along / (mean.norm() * square.sqrt())),
        float(along.clamp(min=0.0) ** 2 / ((mean @ mean + variance / BATCH) * square)),
    )
