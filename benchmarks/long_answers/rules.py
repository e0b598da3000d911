"""What rules that mix do to batches of log-ratios, by the length of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, stdev

import torch

import ais_core
from ais_core import CorrectionSettings, MixingSettings, Plan, SequenceBatch

FAR_SHARE, FAR = 0.1, 4.0
"""One token in ten is four times as far off as the others: the tail of recorded log-ratios."""
SAME = MixingSettings(evaluation="same_batch")
REMEMBERING = MixingSettings(memory=0.9)
RULES = {
    "ais": CorrectionSettings(mixing=SAME),
    "ais_adaptive": CorrectionSettings(level="adaptive", mixing=SAME),
    "handover": CorrectionSettings(method="handover", mixing=SAME),
    "ais_memory": CorrectionSettings(mixing=REMEMBERING),
    "handover_memory": CorrectionSettings(method="handover", mixing=REMEMBERING),
}
"""The default on its own batch, the ladder of blocks, the hand-over; and two that remember ten batches."""


@dataclass(frozen=True)
class Response:
    """What a rule did to several batches: means, and the standard deviation of alpha."""

    alpha: float
    alpha_spread: float
    slope: float
    share: float
    mean_weight: float
    least_effective_sample: float
    """The least ESS ratio of the weights themselves in any batch."""


def draw(mismatch: float, length: int, sequences: int, seed: int) -> SequenceBatch:
    """Log-ratios of mean magnitude `mismatch` whose ratios have mean 1."""
    generator = torch.Generator().manual_seed(1_000 * length + seed)
    near = mismatch * (torch.pi / 2) ** 0.5 / (1 - FAR_SHARE + FAR_SHARE * FAR)
    tokens = sequences * length
    deviation = torch.where(torch.rand(tokens, generator=generator) < FAR_SHARE, FAR * near, near)
    logs = torch.randn(tokens, generator=generator) * deviation - deviation.square() / 2
    return SequenceBatch.packed(logs, torch.full((sequences,), length))


def respond(name: str, mismatch: float, length: int, sequences: int, batches: int) -> Response:
    """The rule of that name on `batches` batches in a row. One that remembers is measured once its memory is full."""
    settings = RULES[name]
    correction = ais_core.build(settings)
    state, plans, samples = None, [], []
    warm_up = 10 if settings.mixing.memory else 0
    for seed in range(warm_up + batches):
        batch = draw(mismatch, length, sequences, seed)
        plan, state = correction.plan(correction.measure(batch), state)
        if seed >= warm_up:
            plans.append(plan)
            weights = correction.weights(batch, None, plan).double()
            samples.append(float(weights.sum() ** 2 / (weights.numel() * weights.square().sum())))
    return _summary(plans, samples)


def _summary(plans: list[Plan], samples: list[float]) -> Response:
    effects = [plan.effect for plan in plans if plan.effect is not None]
    alphas = [plan.alpha for plan in plans if plan.alpha is not None]
    return Response(
        alpha=mean(alphas),
        alpha_spread=stdev(alphas) if len(alphas) > 1 else 0.0,
        slope=mean(effect.slope for effect in effects),
        share=mean(effect.share for effect in effects),
        mean_weight=mean(effect.mean_weight for effect in effects),
        least_effective_sample=min(samples),
    )
