"""Sums over a step, and the figures made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from ais.trainer.learning.batch import Batch
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.record import StepFigures
from ais_core.diagnostics import Moments
from ais_core.plan import Plan


@dataclass
class _WeightSums:
    """Sum and sum of squares of weights."""

    total: float = 0.0
    square: float = 0.0

    def add(self, weights: torch.Tensor) -> None:
        self.total += weights.sum().item()
        self.square += weights.dot(weights).item()

    @property
    def values(self) -> tuple[float, float]:
        return self.total, self.square

    def ess_ratio(self, count: int) -> float:
        return Moments(self.total / count, self.square / count).ess_ratio


@dataclass
class Tally:
    """What is added up while a batch is trained."""

    learning_rate: float
    """Of the schedule, before the plan scales it."""
    sums: torch.Tensor | None = None
    """The correction's sums over the microbatches measured so far."""
    plan: Plan | None = None
    """The plan in force; the batch's own, with diagnostics, at the end."""
    loss: float = 0.0
    entropy: float = 0.0
    gradient_norm: float = 0.0
    updates: int = 0
    skipped: int = 0
    _tokens: _WeightSums = field(default_factory=_WeightSums)
    _sequences: _WeightSums = field(default_factory=_WeightSums)

    def add_sums(self, sums: torch.Tensor) -> None:
        """Adds what `Correction.measure` found in one microbatch."""
        self.sums = sums if self.sums is None else self.sums + sums

    def add(self, loss: torch.Tensor, entropy: torch.Tensor, weights: torch.Tensor, microbatch: Microbatch) -> None:
        """Adds one microbatch: its share of the loss, and [T] entropies and applied weights."""
        self.loss += loss.item()
        self.entropy += entropy.sum().item()
        self._tokens.add(weights)
        means = weights.new_zeros(len(microbatch.lengths)).index_add_(0, microbatch.rows, weights) / microbatch.lengths
        self._sequences.add(means)

    def add_update(self, gradient_norm: float) -> None:
        """Counts an update made, or skipped because its gradient was not finite."""
        self.gradient_norm = max(self.gradient_norm, gradient_norm, key=lambda norm: (math.isnan(norm), norm))
        if math.isfinite(gradient_norm):
            self.updates += 1
        else:
            self.skipped += 1

    def merge(self, ranks: Ranks) -> None:
        """Adds what the other ranks have added up. Sums, plan, norm and updates are those of all ranks already."""
        sums = (self.loss, self.entropy, *self._tokens.values, *self._sequences.values)
        values: list[float] = ranks.sum(
            torch.tensor(sums, dtype=torch.float64, device=ranks.device), "tallies"
        ).tolist()
        self.loss, self.entropy = values[:2]
        self._tokens, self._sequences = _WeightSums(*values[2:4]), _WeightSums(*values[4:])

    def figures(self, batch: Batch, version: int) -> StepFigures:
        """The figures of the batch that led to `version`."""
        plan, sequences, tokens = self.plan, len(batch.staleness), batch.tokens
        found = plan.diagnostics if plan is not None else None
        scored = self.entropy > 0.0  # at least one microbatch was scored
        return StepFigures(
            step=version,
            version=version,
            reward_mean=batch.rewards.mean().item(),
            reward_std=batch.rewards.std(correction=0).item(),
            loss=_finite(self.loss / len(batch.updates)) if scored else None,
            gradient_norm=_finite(self.gradient_norm) if self.updates else None,
            learning_rate=self.learning_rate * (plan.learning_rate_scale if plan else 1.0),
            entropy=_finite(self.entropy / tokens) if scored else None,
            updates=self.updates,
            skipped_updates=self.skipped,
            alpha=plan.alpha if plan else None,
            trusted=plan.trusted if plan else False,
            severity=plan.terms.severity if plan and plan.terms else None,
            reliability=plan.terms.reliability if plan and plan.terms else None,
            amplification=plan.terms.amplification if plan and plan.terms else None,
            concerns=list(plan.concerns) if plan else [],
            weight_mean=plan.effect.mean_weight if plan and plan.effect else None,
            weighted_share=plan.effect.share if plan and plan.effect else None,
            weight_slope=plan.effect.slope if plan and plan.effect else None,
            effective_sequences=_finite(found.effective_sequences) if found else None,
            limited_share=_finite(found.limited_share) if found else None,
            ess_ratio_raw=_finite(found.token_ess_ratio) if found else None,
            ess_ratio_applied=_finite(self._tokens.ess_ratio(tokens)) if scored else None,
            sequence_ess_ratio_raw=_finite(found.sequence_ess_ratio) if found else None,
            sequence_ess_ratio_applied=_finite(self._sequences.ess_ratio(sequences)) if scored else None,
            log_ratio_abs_mean=_finite(found.mean_abs_log_ratio) if found else None,
            ratio_cv=_finite(found.token_cv) if found else None,
            weight_cv=_finite(found.raw_weight_cv) if found else None,
            kl_k1=_finite(found.k1) if found else None,
            kl_k3=_finite(found.k3) if found else None,
            trajectories=sequences,
            tokens=tokens,
            response_length_mean=tokens / sequences,
            staleness_mean=sum(batch.staleness) / sequences,
            staleness_max=max(batch.staleness),
            microbatches=len(batch.microbatches),
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
