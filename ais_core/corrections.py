"""Holds the registry of corrections: from settings to the weights of a batch, in three calls.

    sums = correction.measure(batch)              of a microbatch; add over microbatches, all-reduce over ranks
    plan, state = correction.plan(sums, state)    the decision, from the sums of the whole batch
    weights = correction.weights(batch, advantages, plan)

With r = proximal / behaviour, w the weight at the settings' level (ais_core.levels) and C the cap:

    none            1
    tis             min(w, C)                                  truncated importance sampling, Ionides (2008); for
                                                               rollouts Yao et al. (2025)
    mis, icepop     w if lower <= w <= upper, else 0           masked; IcePop (Ring-1T, arXiv 2510.18855) at token level
    sequence_mask   1 if lower <= prod r <= upper, else 0      Liu, Li et al. (2025); TRL's multiplies by prod r too
    geometric_mask  1 if lower <= (prod r)^(1/n) <= upper      verl's geometric rejection (seq_mean_k1)
    k1, k2, k3      1 if lower <= statistic <= upper           verl; over tokens or sequences
    opsm, m2po      1, but 0 for some tokens by advantage      ais_core.rejections
    vcpo            min(prod r, C), and the learning rate      arXiv 2602.17616, where C = 8; ESS of the sequences' raw
                    times sqrt(min(1, ESS ratio / base))       ratios, from below; its baseline is not part of this
    ais             1 - alpha + alpha min(w, C)                ais_core.mixing
    handover        1 - s + s [(1 - alpha) min(r, C)           ours: what AIS fades to is token ratios; ais_core.mixing
                    + alpha min(w, C)]

Further `rejections` multiply any of them. `self_normalised` divides the weights by their mean over the tokens left
(Hesterberg 1995); then the cap bounds them before that, and no longer after it.

Yao et al.: "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"; Liu, Li et al.: "When Speed Kills
Stability: Demystifying RL Collapse from the Training-Inference Mismatch".
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ais_core.diagnostics import Diagnostics, describe
from ais_core.diagnostics.histogram import FINE_BINS
from ais_core.diagnostics.ladder import rungs
from ais_core.diagnostics.measuring import Measurement, unit_weights
from ais_core.diagnostics.sums import DECISIVE, Sums, check
from ais_core.errors import NonFiniteError, ShapeError, StateError
from ais_core.levels import WHOLE, Levels
from ais_core.mixing import effect, mix
from ais_core.plan import Concern, Effect, Plan
from ais_core.ratios import Chunk, SequenceBatch, exponential
from ais_core.rejections import kept, masked_share, off_policy_sequences, offending, second_moment_threshold
from ais_core.settings import MIXING, WEIGHTED, CorrectionSettings, RejectionSettings

State = dict[str, Any]
"""The memory of a correction between batches: JSON-able, None before the first batch with tokens, and part of a
checkpoint."""

SEVERE = 0.5
"""The severity from which a mismatch counts as severe."""
LITTLE = 0.1
"""The importance-weighted share of the gradient under which training counts as uncorrected, and the share of the batch
left in under which it counts as rejected."""


def build(settings: CorrectionSettings) -> "Correction":
    """The correction those settings describe."""
    return Correction(settings)


class Correction:
    """One correction. It holds only its settings: the state passed in and out is what it remembers."""

    def __init__(self, settings: CorrectionSettings) -> None:
        self.settings = settings
        self._adaptive = settings.weight_level == "adaptive"
        self._hands_over = settings.method == "handover"
        self._rejections = (*_own_rejections(settings), *settings.rejections)

    @property
    def needs_advantages(self) -> bool:
        """Whether `measure` and `weights` look at advantages."""
        return self.settings.method in ("opsm", "m2po")

    def needs_current_sums(self, state: State | None) -> bool:
        """Whether a batch must be measured, and planned, before it can be weighed.

        False for corrections that look at each token or sequence alone, and for AIS on the previous batch once there
        is one: then `recall(state)` gives the plan to weigh with, and the batch is measured on the way.
        """
        if self.settings.method in MIXING and not self._remembers(state):
            return True
        return self.settings.method == "m2po" or self.settings.self_normalised

    def _remembers(self, state: State | None) -> bool:
        """Whether alpha comes from batches before this one."""
        return state is not None and self.settings.mixing.evaluation == "previous_batch"

    @torch.no_grad()
    def measure(self, batch: SequenceBatch, advantages: Tensor | None = None) -> Tensor:
        """The sums of a batch or of a part of it (whole sequences).

        Args:
            batch: log-ratios.
            advantages: (N,) per sequence or in the batch's own shape. opsm and m2po need them, the others only check
                that they are finite.
        Returns:
            flat float64 tensor on the batch's device; add those of all parts.
        Raises:
            ShapeError: advantages that are missing or of another shape.
            NonFiniteError: advantages that are NaN or infinite where a token is trainable.
        """
        measurement = Measurement(batch, self.settings)
        per_token = self._advantages(batch, advantages)
        for chunk in batch.chunks():
            part = None if per_token is None else per_token[chunk.tokens]
            lag = None if batch.version_lag is None else batch.version_lag[chunk.tokens]
            measurement.add(chunk, self._kept(chunk, part), lag, part if self.settings.method == "m2po" else None)
        return measurement.finish()

    def plan(self, sums: Tensor, state: State | None) -> tuple[Plan, State | None]:
        """The decision for a batch from its global sums, and the state after it.

        With evaluation `previous_batch` and a state, alpha comes from the state, as `recall` gives it; the sums then
        give the diagnostics and the next state. A batch without tokens says nothing and leaves the state as it was.

        Raises:
            ShapeError: sums that `measure` did not make.
            NonFiniteError: sums that hold a NaN or an infinity.
            StateError: a state that `plan` did not make.
        """
        current = check(sums.cpu())
        if not current.finite:
            raise NonFiniteError("the sums hold a NaN or an infinity: look at how parts or ranks were added up")
        before = None if state is None else _read(state)
        after = self._remember(before, current)
        plan = self._decide(before if self._remembers(state) else after or current, current)
        diagnostics = describe(current, plan.rung if self._adaptive else 0.0)
        if self.settings.method == "m2po":
            counts = current.values("offending")[:FINE_BINS]
            masked = masked_share(counts, plan.second_moment_threshold, diagnostics.tokens)
            diagnostics = replace(diagnostics, kept_share=diagnostics.kept_share - masked)
        return self._judged(plan, current, diagnostics), None if after is None else _write(after)

    def recall(self, state: State | None) -> Plan:
        """The plan for a batch that need not be measured first: see `needs_current_sums`. It has no diagnostics.

        Raises StateError where the batch must be measured first, or for a state that `plan` did not make.
        """
        if self.needs_current_sums(state):
            raise StateError(f"{self.settings.method!r} must measure this batch first: measure, then plan")
        return self._decide(None if state is None else _read(state), None)

    def accepts(self, state: State) -> bool:
        """Whether `plan` of this release can have made the state. An older release measured other sums."""
        try:
            _read(state)
        except StateError:
            return False
        return True

    @torch.no_grad()
    def weights(self, batch: SequenceBatch, advantages: Tensor | None, plan: Plan) -> Tensor:
        """The weight of each token's loss, detached.

        Args:
            batch: log-ratios, of a whole batch or any part of it in whole sequences.
            advantages: as in `measure`.
            plan: of `plan` or `recall`.
        Returns:
            float32 in the batch's own shape, at least 0, 0 where masked. Multiply the token's loss by it.
        """
        weights = torch.empty_like(batch.log_ratio)
        per_token = self._advantages(batch, advantages)
        for chunk in batch.chunks():
            part = None if per_token is None else per_token[chunk.tokens]
            weights[chunk.tokens] = self._mixed(chunk, part, plan)
        if plan.weight_scale != 1.0:
            weights.mul_(plan.weight_scale)
        return batch.restore(weights)

    @torch.no_grad()
    def branches(self, batch: SequenceBatch, advantages: Tensor | None, plan: Plan) -> tuple[Tensor, Tensor]:
        """The two parts that `weights` adds up: alpha w of the weighted branch, and 1 - alpha of the uncorrected one;
        of `handover`, the corrected part and the rest.

        For a trainer that computes the sampling policy itself (`ais_core.numerics.straight_through`): the first part
        multiplies the loss of the proximal policy's log-probs, the second that of the behaviour policy's. Then both
        are gradients of what they are meant to improve. Corrections that do not mix have only the first.

        Arguments as in `weights`; both float32 in the batch's own shape.
        """
        weighted, uncorrected = torch.empty_like(batch.log_ratio), torch.empty_like(batch.log_ratio)
        per_token = self._advantages(batch, advantages)
        for chunk in batch.chunks():
            part = None if per_token is None else per_token[chunk.tokens]
            weighted[chunk.tokens], uncorrected[chunk.tokens] = self._weigh(chunk, part, plan)
        for branch in (weighted, uncorrected):
            branch.mul_(plan.weight_scale)
        return batch.restore(weighted), batch.restore(uncorrected)

    # Deciding.

    def _remember(self, before: Sums | None, current: Sums) -> Sums | None:
        """An exponential moving average of the sums: the batch that alpha is chosen from."""
        if not _tokens(current):
            return before
        memory = self.settings.mixing.memory
        if before is None or memory == 0.0:
            return current
        return Sums(torch.lerp(current.flat, before.flat, memory))

    def _decide(self, basis: Sums | None, current: Sums | None) -> Plan:
        """The plan from the sums that alpha is chosen from and, where it is measured already, those of the batch."""
        if self.settings.method in MIXING:
            assert basis is not None
            mixture = mix(basis, self.settings.mixing, self._adaptive, self._hands_over)
            return Plan(
                alpha=mixture.alpha,
                rung=mixture.rung,
                second_moment_threshold=math.inf,
                trusted=self._plausible(basis),
                concerns=() if self._plausible(basis) else ("mismatch_limit",),
                terms=mixture.terms,
                effective_sample_ratio=mixture.effective_sample_ratio,
                corrected=mixture.corrected,
            )
        threshold = math.inf
        if self.settings.method == "m2po" and current is not None:
            pushed, limit = current.values("offending"), self.settings.bounds[1]
            threshold = second_moment_threshold(pushed[:FINE_BINS], pushed[FINE_BINS:], limit)
        seen = current or basis
        return Plan(
            alpha=None,
            rung=float(WHOLE),
            second_moment_threshold=threshold,
            trusted=True,
            concerns=(),
            terms=None,
            effective_sample_ratio=_applied_ess(seen) if seen else math.nan,
        )

    def _left_in(self, current: Sums, diagnostics: Diagnostics) -> float:
        """The share of the batch that masks leave in; of those that weigh as well, its effective sample."""
        return _applied_ess(current) if self.settings.method in ("mis", "icepop") else diagnostics.kept_share

    def _judged(self, plan: Plan, current: Sums, diagnostics: Diagnostics) -> Plan:
        """The plan with what it does to the batch of `current`, and what is wrong with that."""
        found = None
        if plan.alpha is not None and self._hands_over:
            found = effect(current, plan.corrected, 1.0 - plan.alpha)
        elif plan.alpha is not None:
            found = effect(current, plan.alpha, plan.rung if self._adaptive else 0.0)
        trusted = self._plausible(current)
        concerns: list[Concern] = [] if trusted else ["mismatch_limit"]
        if self.settings.method in WEIGHTED and diagnostics.limited_share > 0.5:
            concerns.append("exponent_limit")
        # The mean of clamped weights is the clamp's: dividing by it would make gradients of what is no evidence.
        evidence = not diagnostics.limited_share > 0.5
        mean = _mean_weight(current, found)
        normalised = 1.0 / mean if self.settings.self_normalised and evidence and mean > 0.0 else 1.0
        if found is not None:
            found = replace(found, mean_weight=found.mean_weight * normalised)
        if found is not None and found.share < LITTLE <= self.settings.mixing.alpha_max and self._severe(diagnostics):
            concerns.append("uncorrected")
        if diagnostics.tokens and self._left_in(current, diagnostics) < LITTLE:
            concerns.append("rejected")
        scale = 1.0
        if self.settings.method == "vcpo" and diagnostics.tokens:
            scale = math.sqrt(min(1.0, diagnostics.sequence_ess_ratio / self.settings.learning_rate_base))
        return replace(
            plan,
            trusted=trusted,
            concerns=tuple(concerns),
            learning_rate_scale=scale,
            weight_scale=normalised,
            effect=found,
            diagnostics=diagnostics,
        )

    def _plausible(self, sums: Sums) -> bool:
        """Whether the mean |log ratio| per token is within the limit."""
        tokens = _tokens(sums)
        return not tokens or sums.values("token")[1] / tokens <= self.settings.mixing.mismatch_limit

    def _severe(self, diagnostics: Diagnostics) -> bool:
        square = diagnostics.mean_abs_log_ratio**2
        return square >= SEVERE * (square + self.settings.mixing.severity_scale**2)

    # Weighing.

    def _mixed(self, chunk: Chunk, advantages: Tensor | None, plan: Plan) -> Tensor:
        settings = self.settings
        if settings.method in WEIGHTED and not (
            self._adaptive or self._hands_over or self._rejections or settings.mixing.uncorrected_bound is not None
        ):
            # All tokens of a unit have the same weight: mix before it is spread over them.
            units = Levels(chunk, settings).fixed()
            weights = unit_weights(units, settings)
            if plan.alpha is not None:
                weights = weights.mul_(plan.alpha).add_(1.0 - plan.alpha)
            return units.spread(weights.float(), chunk.log_ratio.numel())
        weighted, uncorrected = self._weigh(chunk, advantages, plan)
        return weighted.add_(uncorrected)

    def _weigh(self, chunk: Chunk, advantages: Tensor | None, plan: Plan) -> tuple[Tensor, Tensor]:
        """Weights of the weighted branch, in new memory, and of the uncorrected one: one number, or one a token."""
        logs = chunk.log_ratio
        bound = self.settings.mixing.uncorrected_bound
        if self.settings.method not in WEIGHTED:
            weights = torch.ones_like(logs)
        elif self._adaptive:
            weights = Levels(chunk, self.settings).between(plan.rung)
        else:
            units = Levels(chunk, self.settings).fixed()
            weights = units.spread(unit_weights(units, self.settings).float(), logs.numel())
        rest = logs.new_zeros(())
        if self._hands_over:
            assert plan.alpha is not None
            tokens = unit_weights(Levels(chunk, self.settings).tokens(), self.settings)
            weights = tokens.lerp_(weights, plan.alpha).mul_(plan.corrected)
            rest.fill_(1.0 - plan.corrected)
        elif self.settings.method == "ais":
            assert plan.alpha is not None
            weights = weights.mul_(plan.alpha)
            rest.fill_(1.0 - plan.alpha)
            if bound is not None:
                rest = rest * exponential((logs + math.log(bound)).clamp(max=0.0))
        keep = self._kept(chunk, advantages, plan)
        return (weights, rest) if keep is None else (weights * keep, rest * keep)

    def _kept(self, chunk: Chunk, advantages: Tensor | None, plan: Plan | None = None) -> Tensor | None:
        """(tokens,) bool, or None when everything is kept. M2PO's mask needs the plan."""
        masks = [kept(chunk, rejection) for rejection in self._rejections]
        if self.settings.method == "opsm":
            assert advantages is not None
            masks.append(off_policy_sequences(chunk, advantages, self.settings.bounds[1]))
        if self.settings.method == "m2po" and plan is not None:
            assert advantages is not None
            over = chunk.log_ratio.abs() >= plan.second_moment_threshold
            masks.append(~(offending(chunk.log_ratio, advantages) & over))
        if not masks:
            return None
        return torch.stack(masks).all(0) if len(masks) > 1 else masks[0]

    def _advantages(self, batch: SequenceBatch, advantages: Tensor | None) -> Tensor | None:
        """(tokens,) advantages, where the method looks at them. Raises ShapeError and NonFiniteError."""
        if advantages is None:
            if self.needs_advantages:
                raise ShapeError(f"{self.settings.method!r} depends on the sign of the advantages: pass them")
            return None
        by_sequence = advantages.shape == (len(batch.lengths),)
        values = advantages.detach() if by_sequence else batch.per_token(advantages.detach())
        if not values.isfinite().all():
            bad = int((~values.isfinite()).sum())
            raise NonFiniteError(f"{bad} of {values.numel()} advantages are NaN or infinite: look at the rewards")
        if not self.needs_advantages:
            return None
        return batch.per_token(values) if by_sequence else values


def _own_rejections(settings: CorrectionSettings) -> tuple[RejectionSettings, ...]:
    """The rejection that a masking method stands for."""
    match settings.method:
        case "sequence_mask":
            return (RejectionSettings("ratio", "sequence_sum", *settings.bounds),)
        case "geometric_mask":
            return (RejectionSettings("ratio", "sequence_mean", *settings.bounds),)
        case "k1" | "k2" | "k3" as statistic:
            return (RejectionSettings(statistic, settings.over or "token", *settings.bounds),)
        case _:
            return ()


def _tokens(sums: Sums) -> float:
    return sums.values("batch")[2]


def _mean_weight(sums: Sums, effect: Effect | None) -> float:
    """Mean of the weights over the tokens that rejections leave in; `effect` is that of mixed weights."""
    _, _, tokens, kept, _ = sums.values("batch")
    if not kept:
        return 0.0
    return (rungs(sums)[0].weight if effect is None else effect.mean_weight * tokens) / kept


def _applied_ess(sums: Sums) -> float:
    tokens = _tokens(sums)
    return rungs(sums)[0].moments(tokens).ess_ratio if tokens else math.nan


def _write(sums: Sums) -> State:
    return {"sums": sums.flat[:DECISIVE].tolist()}


def _read(state: Mapping[str, Any]) -> Sums:
    values = state.get("sums") if isinstance(state, Mapping) else None
    if (
        not isinstance(values, list)
        or len(values) != DECISIVE
        or not all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    ):
        raise StateError(
            f"expected a state with {DECISIVE} finite sums, as plan() returns it; start with None to drop it"
        )
    sums = Sums.zero()
    sums.flat[:DECISIVE] = torch.tensor(values, dtype=torch.float64)
    return sums


__all__ = ["Correction", "CorrectionSettings", "State", "build"]
