"""Adds up what one step measures, and makes the step's figures from the sums."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from ais.trainer.learning.batch import Batch
from ais.trainer.learning.loss import Cost
from ais.trainer.learning.spread import Spread
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
    """The sums of one batch, filled while it is trained."""

    learning_rate: float
    """What the schedule gives, before the plan scales it."""
    spread: Spread
    """Distributions over the same microbatches."""
    sums: torch.Tensor | None = None
    """The correction's sums over the microbatches measured so far."""
    plan: Plan | None = None
    """The plan in force; the batch's own, with diagnostics, at the end."""
    loss: float = 0.0
    entropy: float = 0.0
    gradient_norm: float | None = None
    """The largest of the updates so far; None before the first, NaN where one of them is NaN."""
    scored: int = 0
    """Microbatches, of all ranks, whose loss and entropy were added. Entropy says nothing about it: it may be 0."""
    bounded: float = 0.0
    """Tokens on which the objective's clip or mask acts."""
    reference_kl: float = 0.0
    """Sum of the tokens' estimates, nats."""
    compared: int = 0
    """Tokens, of all ranks, whose divergence from the reference was added."""
    updates: int = 0
    skipped: int = 0
    _tokens: _WeightSums = field(default_factory=_WeightSums)
    _sequences: _WeightSums = field(default_factory=_WeightSums)

    def add_sums(self, sums: torch.Tensor) -> None:
        """Adds what `Correction.measure` found in one microbatch."""
        self.sums = sums if self.sums is None else self.sums + sums

    def add(
        self,
        cost: Cost,
        entropy: torch.Tensor,
        log_ratios: torch.Tensor,
        weights: torch.Tensor,
        microbatch: Microbatch,
    ) -> None:
        """Adds one microbatch: what it costs, and [T] entropies, log-ratios and applied weights."""
        self.spread.add(log_ratios, weights, microbatch)
        self.scored += 1
        self.loss += cost.loss.item()
        self.entropy += entropy.sum().item()
        self.bounded += cost.bounded.sum().item()
        if cost.reference_kl is not None:
            self.add_divergence(cost.reference_kl)
        self._tokens.add(weights)
        means = weights.new_zeros(len(microbatch.lengths)).index_add_(0, microbatch.rows, weights) / microbatch.lengths
        self._sequences.add(means)

    def add_divergence(self, estimates: torch.Tensor) -> None:
        """Adds [T] estimates of tokens' divergence from the reference."""
        self.reference_kl += estimates.sum().item()
        self.compared += len(estimates)

    def add_update(self, gradient_norm: float, made: bool) -> None:
        """Counts an update that was made or skipped."""
        norms = [gradient_norm] if self.gradient_norm is None else [self.gradient_norm, gradient_norm]
        self.gradient_norm = max(norms, key=lambda norm: (math.isnan(norm), norm))
        if made:
            self.updates += 1
        else:
            self.skipped += 1

    def merge(self, ranks: Ranks) -> None:
        """Adds what the other ranks have added up. Sums, plan, norm and updates are those of all ranks already."""
        self.spread.merge(ranks)
        divergence = (self.bounded, self.reference_kl, self.compared)
        sums = (self.scored, self.loss, self.entropy, *divergence, *self._tokens.values, *self._sequences.values)
        values: list[float] = ranks.sum(
            torch.tensor(sums, dtype=torch.float64, device=ranks.device), "tallies"
        ).tolist()
        self.scored = int(values[0])
        self.loss, self.entropy, self.bounded, self.reference_kl = values[1:5]
        self.compared = int(values[5])
        self._tokens, self._sequences = _WeightSums(*values[6:8]), _WeightSums(*values[8:])

    def figures(self, batch: Batch, version: int) -> StepFigures:
        """The figures of the batch that led to `version`."""
        plan, sequences, tokens = self.plan, len(batch.staleness), batch.tokens
        found = plan.diagnostics if plan is not None else None
        scored = self.scored > 0
        return StepFigures(
            step=version,
            version=version,
            reward_mean=batch.rewards.mean().item(),
            reward_std=batch.rewards.std(correction=0).item(),
            loss=self.loss / len(batch.updates) if scored else None,
            gradient_norm=self.gradient_norm,
            learning_rate=self.learning_rate * (plan.learning_rate_scale if plan else 1.0),
            entropy=self.entropy / tokens if scored else None,
            reference_kl=self.reference_kl / self.compared if self.compared else None,
            bounded_share=self.bounded / tokens if scored else None,
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
            effective_sequences=found.effective_sequences if found else None,
            limited_share=found.limited_share if found else None,
            ess_ratio_raw=found.token_ess_ratio if found else None,
            ess_ratio_applied=self._tokens.ess_ratio(tokens) if scored else None,
            sequence_ess_ratio_raw=found.sequence_ess_ratio if found else None,
            sequence_ess_ratio_applied=self._sequences.ess_ratio(sequences) if scored else None,
            log_ratio_abs_mean=found.mean_abs_log_ratio if found else None,
            ratio_cv=found.token_cv if found else None,
            weight_cv=found.raw_weight_cv if found else None,
            kl_k1=found.k1 if found else None,
            kl_k3=found.k3 if found else None,
            trajectories=sequences,
            tokens=tokens,
            response_length_mean=tokens / sequences,
            truncated_share=batch.truncated_share,
            zero_variance_share=batch.zero_variance_share,
            staleness_mean=sum(batch.staleness) / sequences,
            staleness_max=max(batch.staleness),
            microbatches=len(batch.microbatches),
        )
