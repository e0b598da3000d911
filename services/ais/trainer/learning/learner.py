"""One training step, top to bottom: batch, forward, measure, plan, weights, surrogate, backward, guard, update.

The mathematics is ais_core's. What is decided here is the order, and with it the price. The proximal policy is the
policy at the start of the step, so when one update is made per batch its log-probs are those of the very forward pass
that is differentiated. A pass ahead of it is made in two cases only: several updates per batch, and a plan that must be
made from this batch (`Correction.needs_current_sums`) while the batch needs several microbatches.

With `straight_through` the uncorrected branch has a pass of its own, through the policy as it samples; with
`straight_through_every` some steps are made of such passes alone. With `centring` that policy's pass, without
gradients, says what its tokens' gradients are on average, and the loss takes that away.

With several ranks, each makes these passes on its share of the batch. The ranks take every decision (the plan, whether
to skip, the gradient's norm) from sums over all of them, so all decide alike, and none waits for a pass that another
leaves out.

A batch that is not trusted (`Plan.trusted`) is measured and not trained on: beyond the mismatch limit neither weighted
nor uncorrected gradients mean anything.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ais.contracts.sampling import Precision
from ais.contracts.trajectory import ScoredGroup
from ais.contracts.weights.probe import Probe
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.trainer.learning.batch import Batch, Update, prepare
from ais.trainer.learning.loss import Cost, Loss
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.learning.probe import probe_sequences, take_probe
from ais.trainer.learning.reference import START, Reference
from ais.trainer.learning.schedule import learning_rate, pace
from ais.trainer.learning.spread import Spread
from ais.trainer.learning.tally import Tally
from ais.trainer.learning.training_state import load_training_state, save_training_state
from ais.trainer.mismatch import Mismatch
from ais.trainer.policy.behaviour_forward import check_imitable
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.policy.policy import Policy, TokenScores
from ais.trainer.policy.shared_prompts import pairs_per_token
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.ranks.sharding import gathered, whole
from ais.trainer.record import StepFigures
from ais.trainer.samples import watched_tokens
from ais.trainer.settings import TrainerSettings
from ais.trainer.weights.snapshot import Snapshot, Staging, write_snapshot
from ais_core.corrections import State, build
from ais_core.errors import NonFiniteError
from ais_core.ratios import SequenceBatch, log_ratio
from ais_core.settings import CorrectionSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepOutcome:
    """The version that a step made, and what it measured."""

    snapshot: Snapshot
    figures: StepFigures
    staleness: list[int]
    """Versions behind the trained policy, one for each trajectory."""
    mismatch: Mismatch
    """How the batch's tokens lie, and whose they are."""


@dataclass(frozen=True)
class Memory:
    """A learner's state beside its tensors."""

    version: int
    """Policy version: batches trained. The learning rate is a function of it."""
    correction: State | None
    """What the correction remembers."""
    probe_sequences: tuple[tuple[int, ...], ...] | None
    """The sequences every version is probed with; None before the first batch."""
    frozen: Mapping[str, str] = field(default_factory=dict)
    """Digests of models that training reads and does not change, by their paths."""


class Learner:
    """Owns what learning changes: master weights, the optimizer's moments, the correction's state.

    The first batch also supplies the sequences that every version is probed with. With several ranks, each has a
    learner, and every method is called on all of them with the same arguments, in the same order.
    """

    def __init__(
        self,
        policy: Policy,
        run: RunSettings,
        settings: TrainerSettings,
        correction: CorrectionSettings,
        staging: Staging | None = None,
        ranks: Ranks | None = None,
        reference: Reference | None = None,
    ) -> None:
        """`policy` is sharded over `ranks` already, when there are several. `staging`: where the first of them writes
        the versions; None is the system's directory for temporary files. `reference`: what
        `settings.objective.reference` names, by `load_reference`.

        Raises UnavailableError where the objective computes the sampling policy, or prompts are shared, and cannot for
        this model."""
        self._policy = policy
        self._ranks = ranks or Ranks(policy.device)
        self._steps = run.steps
        self._settings = settings
        self._loss = Loss(settings.objective)
        policy.scoring.differentiate_entropy = settings.objective.entropy_coefficient > 0
        self._reference = reference
        for name in ("straight_through", "straight_through_every", "centring"):
            if getattr(settings.objective, name):
                check_imitable(policy.model, f"trainer.objective.{name}")
        self._pairs_per_token = pairs_per_token(policy.model.config) if settings.compute.share_prompts else None
        self._correction = build(correction)
        self._state: State | None = None
        self._version = 0
        self._staging = staging
        self._probe_sequences: tuple[tuple[int, ...], ...] | None = None
        self._masters = list(policy.masters.values())
        self._optimizer = torch.optim.AdamW(
            self._masters,
            lr=settings.optimizer.learning_rate,
            betas=(settings.optimizer.beta1, settings.optimizer.beta2),
            weight_decay=settings.optimizer.weight_decay,
            fused=True,
        )

    @property
    def memory(self) -> Memory:
        """What a checkpoint must keep beside the training state; JSON-able."""
        return Memory(self._version, self._state, self._probe_sequences, self._frozen)

    @property
    def _frozen(self) -> dict[str, str]:
        base = self._policy.base_digest
        return {
            **({START: base} if base else {}),
            **(self._reference.frozen if self._reference else {}),
        }

    def save(self, directory: Path) -> Future[Any]:
        """Copies the training state as it is now and writes the copy to `directory` in the background."""
        average = self._reference.average if self._reference else {}
        return save_training_state(directory, self._policy.masters, self._optimizer, average, self._ranks.saving)

    def resume(self, memory: Memory, directory: Path) -> None:
        """Goes on from what `save` wrote to `directory` when `memory` was this. Raises UnavailableError when a model
        that training only reads is not the one it was."""
        for model, digest in self._frozen.items():
            if memory.frozen.get(model, digest) != digest:
                raise UnavailableError(
                    f"the weights in {model} are not those that the run was begun with (digest {memory.frozen[model]}, "
                    f"now {digest}). Put them back, or begin another run."
                )
        average = self._reference.average if self._reference else {}
        with self._ranks.phase("loading the training state"):
            found = load_training_state(directory, self._policy.masters, self._optimizer, average, self._ranks.saving)
        if self._reference and not found:
            logger.warning(
                "the checkpoint has no average of the policy to compare with: it begins at the policy of now"
            )
            self._reference.begin()
        self._version = memory.version
        self._state = memory.correction
        if self._state is not None and not self._correction.accepts(self._state):
            logger.warning("the checkpoint's state of the correction is of another release: it begins anew, unmixed")
            self._state = None
        self._probe_sequences = memory.probe_sequences

    def step(self, groups: Sequence[ScoredGroup], clock: PhaseClock) -> StepOutcome:
        """Trains one batch and returns the next version, also when its updates had to be skipped."""
        with clock.phase("prepare"):
            batch = prepare(groups, self._version, self._settings, self._ranks, self._pairs_per_token)
        watched = watched_tokens(self._version + 1, groups, self._settings.samples_per_step)
        spread = Spread(len(batch.rewards), self._ranks.device, watched)
        optimizer = self._settings.optimizer
        rate = learning_rate(optimizer, self._version, self._steps) * pace(optimizer, batch.zero_variance_share)
        tally = Tally(rate, spread)
        try:
            self._train(batch, tally, clock)
        except NonFiniteError as error:
            tally.skipped = len(batch.updates) - tally.updates
            logger.error("updates skipped: %s", error, extra={"version": self._version})
        self._optimizer.zero_grad(set_to_none=True)
        if self._reference:
            self._reference.follow()
        tally.merge(self._ranks)
        self._version += 1
        if self._probe_sequences is None:
            self._probe_sequences = probe_sequences(groups, self._settings.probe.sequences, self._settings.probe.tokens)
        with clock.phase("probe"), self._ranks.phase("forward of the probe"):
            probe = take_probe(self._policy, self._probe_sequences)
        with clock.phase("serialise"):
            snapshot = self._snapshot(probe)
        mismatch = tally.spread.mismatch(groups, tally.plan)
        return StepOutcome(snapshot, tally.figures(batch, self._version), batch.staleness, mismatch)

    def rehearse(self, groups: Sequence[ScoredGroup]) -> None:
        """Makes a step's passes over `groups` and changes nothing: what is wrong with a group shows here, if anywhere.

        Raises whatever a step on them would raise, but for numbers that are not finite: those a step skips.
        """
        batch = prepare(groups, self._version, self._settings, self._ranks, self._pairs_per_token)
        tally = Tally(learning_rate=0.0, spread=Spread(len(batch.rewards), self._ranks.device))
        state = self._state
        try:
            for update in batch.updates:
                for microbatch in update.microbatches:
                    tally.sums = tally.plan = None  # each is planned for alone
                    self._accumulate(batch, update, microbatch, None, tally, PhaseClock())
        except NonFiniteError as error:
            logger.warning("a group that is tried alone is not finite: %s", error)
        finally:
            self._state = state
            self._optimizer.zero_grad(set_to_none=True)

    def snapshot(self) -> Snapshot:
        """Writes the version that has not been trained yet. It has no probe, because there is no batch to take one
        from."""
        return self._snapshot(None)

    def _snapshot(self, probe: Probe | None) -> Snapshot:
        """Writes the version of now. The first rank writes each tensor as it is gathered; the others' snapshots have
        no files."""
        weights = gathered(self._policy, self._ranks)
        if not self._ranks.first:
            assert not list(weights)
            return Snapshot(self._version, digest="", files=())
        snapshot = write_snapshot(self._version, self._policy.shapes, weights, probe, self._staging)
        if self._policy.adapters:
            self._policy.adapters.save(snapshot.adapter)
        return snapshot

    def _train(self, batch: Batch, tally: Tally, clock: PhaseClock) -> None:
        """Makes the batch's updates. Raises NonFiniteError when log-probs or advantages are not finite."""
        _check_advantages(batch)
        several = len(batch.microbatches) > 1
        measured_first = several and self._correction.needs_current_sums(self._state)
        if len(batch.updates) > 1 or measured_first or self._penalises_rewards:
            proximal = self._score_ahead(batch, clock)
            if self._penalises_rewards:
                batch = self._penalised(batch, proximal, tally, clock)
            self._measure(batch, proximal, tally, clock)
            for update in batch.updates:
                for microbatch in update.microbatches:
                    self._accumulate(batch, update, microbatch, proximal[microbatch], tally, clock)
                self._update(tally, clock)
            return
        (update,) = batch.updates
        if several:
            tally.plan = self._correction.recall(self._state)
        for microbatch in update.microbatches:
            self._accumulate(batch, update, microbatch, None, tally, clock)
        if several:
            self._decide(tally, clock)
        self._update(tally, clock)

    @property
    def _penalises_rewards(self) -> bool:
        return self._reference is not None and self._settings.objective.reference.place == "reward"

    def _score_ahead(self, batch: Batch, clock: PhaseClock) -> dict[Microbatch, torch.Tensor]:
        """The proximal log-probs of the whole batch, without gradients."""
        with clock.phase("forward_backward"), torch.no_grad():
            return {microbatch: self._score(microbatch).logprobs for microbatch in batch.microbatches}

    def _penalised(
        self, batch: Batch, proximal: dict[Microbatch, torch.Tensor], tally: Tally, clock: PhaseClock
    ) -> Batch:
        """The batch with the reference's penalty in its rewards: of each response, the sum over its tokens."""
        penalties = torch.zeros(len(batch.rewards), dtype=torch.float64, device=self._ranks.device)
        for microbatch, logprobs in proximal.items():
            with clock.phase("forward_backward"):
                estimates = self._loss.divergence(logprobs, self._reference_logprobs(microbatch))
            tally.add_divergence(estimates)
            penalties.index_add_(0, microbatch.sequences[microbatch.rows], estimates.double())
        penalties = self._settings.objective.reference.coefficient * self._ranks.sum(penalties, "penalties")
        batch = batch.penalised(penalties, self._settings.objective.advantage)
        _check_advantages(batch)
        return batch

    def _measure(self, batch: Batch, proximal: dict[Microbatch, torch.Tensor], tally: Tally, clock: PhaseClock) -> None:
        """Measures the whole batch, and makes the plan."""
        for microbatch, logprobs in proximal.items():
            with clock.phase("correction"):
                ratios = self._ratios(microbatch, logprobs)
                tally.add_sums(self._correction.measure(ratios, batch.advantages[microbatch.sequences]))
        self._decide(tally, clock)

    def _accumulate(
        self,
        batch: Batch,
        update: Update,
        microbatch: Microbatch,
        proximal: torch.Tensor | None,
        tally: Tally,
        clock: PhaseClock,
    ) -> None:
        """Adds one microbatch's gradient. Without `proximal`, the policy is the proximal one still."""
        if self._is_turn_of_sampling:
            self._accumulate_sampling(batch, update, microbatch, proximal, tally, clock)
            return
        advantages = batch.advantages[microbatch.sequences]
        centre = microbatch.precision if self._settings.objective.centring else None
        with clock.phase("forward_backward"):
            scores = self._score(microbatch, centre=centre)
        ratios = self._compare(microbatch, scores.logprobs, proximal, advantages, tally, clock)
        assert tally.plan is not None
        with clock.phase("correction"):
            if self._settings.objective.straight_through:
                weights, behaviour_weights = self._correction.branches(ratios, advantages, tally.plan)
            else:
                weights, behaviour_weights = self._correction.weights(ratios, advantages, tally.plan), None
        with clock.phase("forward_backward"):
            reference = self._reference_logprobs(microbatch) if self._penalises_losses else None
            terms = (advantages, weights, reference, microbatch, update.normaliser)
            cost = self._loss(scores, scores.logprobs.detach() if proximal is None else proximal, *terms)
            # A correction that does not mix has no alpha, and no branch of its own for the sampling policy.
            alpha = 1.0 if tally.plan.alpha is None else tally.plan.alpha
            if behaviour_weights is None or alpha > 0.0:
                self._backward(cost.loss)
            if behaviour_weights is not None and alpha < 1.0:
                own = self._cost_of_sampling(microbatch, advantages, behaviour_weights, reference, update)[0]
                self._backward(own.loss)
                cost, weights = cost.beside(own), weights + behaviour_weights
        with clock.phase("correction"):
            tally.add(cost, scores.entropy.detach(), ratios.log_ratio, weights, microbatch)

    def _accumulate_sampling(
        self,
        batch: Batch,
        update: Update,
        microbatch: Microbatch,
        proximal: torch.Tensor | None,
        tally: Tally,
        clock: PhaseClock,
    ) -> None:
        """Adds one microbatch's gradient of the sampling policy, which needs no weights. It measures as others do."""
        advantages = batch.advantages[microbatch.sequences]
        logprobs, entropy = proximal, None
        if logprobs is None:
            with clock.phase("forward_backward"), torch.no_grad():
                before = self._score(microbatch)
            logprobs, entropy = before.logprobs, before.entropy
        ratios = self._compare(microbatch, logprobs, proximal, advantages, tally, clock)
        weights = torch.ones_like(logprobs)
        with clock.phase("forward_backward"):
            reference = self._reference_logprobs(microbatch) if self._penalises_losses else None
            cost, scores = self._cost_of_sampling(microbatch, advantages, weights, reference, update)
            self._backward(cost.loss)
        with clock.phase("correction"):
            entropy = scores.entropy.detach() if entropy is None else entropy
            tally.add(cost, entropy, ratios.log_ratio, weights, microbatch)

    def _compare(
        self,
        microbatch: Microbatch,
        logprobs: torch.Tensor,
        proximal: torch.Tensor | None,
        advantages: torch.Tensor,
        tally: Tally,
        clock: PhaseClock,
    ) -> SequenceBatch:
        """The microbatch's ratios, and the plan if it is the batch's only one. `logprobs` stand for the proximal
        policy's where those were not computed ahead; then nothing was measured either."""
        with clock.phase("correction"):
            ratios = self._ratios(microbatch, logprobs if proximal is None else proximal)
            if proximal is None:
                tally.add_sums(self._correction.measure(ratios, advantages))
        if tally.plan is None:
            self._decide(tally, clock)
        return ratios

    def _cost_of_sampling(
        self,
        microbatch: Microbatch,
        advantages: torch.Tensor,
        weights: torch.Tensor,
        reference: torch.Tensor | None,
        update: Update,
    ) -> tuple[Cost, TokenScores]:
        """The loss of the sampling policy's own log-probs of now: what was recorded is its proximal policy."""
        scores = self._score(microbatch, microbatch.precision)
        terms = (advantages, weights, reference, microbatch, update.normaliser)
        return self._loss(scores, microbatch.behaviour_logprobs, *terms), scores

    @property
    def _is_turn_of_sampling(self) -> bool:
        every = self._settings.objective.straight_through_every
        return every > 0 and (self._version + 1) % every == 0

    @property
    def _penalises_losses(self) -> bool:
        return self._reference is not None and self._settings.objective.reference.place == "loss"

    def _score(
        self, microbatch: Microbatch, behaviour: Precision | None = None, centre: Precision | None = None
    ) -> TokenScores:
        with self._ranks.phase("forward of a microbatch"):
            return self._policy.score(microbatch, behaviour, centre)

    def _reference_logprobs(self, microbatch: Microbatch) -> torch.Tensor:
        assert self._reference is not None
        with self._ranks.phase("forward of the reference"):
            return self._reference.logprobs(microbatch)

    def _backward(self, loss: torch.Tensor) -> None:
        with self._ranks.phase("backward of a microbatch"):
            loss.backward()  # type: ignore[no-untyped-call]

    def _ratios(self, microbatch: Microbatch, proximal: torch.Tensor) -> SequenceBatch:
        """Raises NonFiniteError, on all ranks when on one."""
        # A trainer that went on from an older checkpoint makes again versions that tokens were sampled with already.
        version_lag = (self._version - microbatch.versions).clamp(min=0)
        ratios, failure = None, NonFiniteError("log-probs on another rank are not finite")
        try:
            logs = log_ratio(proximal, microbatch.behaviour_logprobs)
            ratios = SequenceBatch.packed(logs, microbatch.lengths, version_lag)
        except NonFiniteError as error:
            failure = error
        if not self._ranks.agree(ratios is not None, "finite log-probs") or ratios is None:
            raise failure
        return ratios

    def _decide(self, tally: Tally, clock: PhaseClock) -> None:
        """Plans from the sums of the whole batch, and moves the correction's state one batch on."""
        with clock.phase("correction"):
            assert tally.sums is not None
            sums = self._ranks.sum(tally.sums, "the correction")
            plan, self._state = self._correction.plan(sums, self._state)
        if self._is_turn_of_sampling:
            # Nothing is weighed: what the weights would do is no figure of this step.
            told = tuple(one for one in plan.concerns if one == "mismatch_limit")
            plan = replace(plan, effect=None, concerns=told)
        if not plan.trusted:
            logger.warning(
                "the batch is not trained: its mismatch with the policy is too large to mean anything",
                extra={"version": self._version},
            )
        tally.plan = plan

    def _update(self, tally: Tally, clock: PhaseClock) -> None:
        """Clips the gradient and steps. A gradient that is not finite must not reach the optimizer's moments, and that
        of a batch that is not trusted must not reach the weights: both are dropped."""
        with clock.phase("optimizer"):
            assert tally.plan is not None
            self._add_up_gradients()
            with self._ranks.phase("norm of the gradient"):
                norm = whole(torch.nn.utils.clip_grad_norm_(self._masters, self._settings.optimizer.max_grad_norm))
            made = bool(norm.isfinite()) and tally.plan.trusted
            if made:
                for group in self._optimizer.param_groups:
                    group["lr"] = tally.learning_rate * tally.plan.learning_rate_scale
                self._optimizer.step()
            elif tally.plan.trusted:
                logger.error("update skipped: the gradient is not finite", extra={"version": self._version})
            self._optimizer.zero_grad(set_to_none=True)
        tally.add_update(float(norm), made)

    def _add_up_gradients(self) -> None:
        """Adds the ranks' gradients where each holds all that is trained. FSDP adds up those of shards by itself."""
        if self._ranks.size == 1 or not self._policy.adapters:
            return
        for master in self._masters:
            if master.grad is None:  # a rank that had nothing to score
                master.grad = torch.zeros_like(master)
        gradients = [master.grad for master in self._masters if master.grad is not None]
        total = self._ranks.sum(torch.cat([gradient.flatten() for gradient in gradients]), "gradients")
        for gradient, part in zip(gradients, torch.split(total, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _check_advantages(batch: Batch) -> None:
    if not batch.advantages.isfinite().all():
        raise NonFiniteError(f"advantages are not finite; the rewards reach {float(batch.rewards.abs().max()):g}")
