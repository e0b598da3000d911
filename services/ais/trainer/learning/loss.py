"""What a microbatch's tokens cost: the surrogate, the divergence from the reference, less the entropy bonus.

All three are expectations over what the policy samples, so the correction's weights multiply all three. The divergence
and the entropy that are reported are not weighted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ais.trainer.objective_settings import ObjectiveSettings
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.policy.policy import TokenScores
from ais_core.objectives import Normalizer, Tokens, aggregate, build, reference_kl


@dataclass(frozen=True)
class Cost:
    """A microbatch's part of an update's loss, and what was measured on the way."""

    loss: torch.Tensor
    """Scalar, with the graph."""
    bounded: torch.Tensor
    """bool [T]: the objective's clip or mask acts on the token."""
    reference_kl: torch.Tensor | None
    """float32 [T], nats, detached: the estimated divergence; None without a reference in the loss."""

    def beside(self, other: Cost) -> Cost:
        """The sum of two branches of one microbatch, whose tokens are the same."""
        return replace(self, loss=self.loss.detach() + other.loss.detach(), bounded=self.bounded | other.bounded)


class Loss:
    """The loss that [trainer.objective] describes."""

    def __init__(self, settings: ObjectiveSettings) -> None:
        self._settings = settings
        self._objective = build(settings.name, settings.own)

    def __call__(
        self,
        scores: TokenScores,
        proximal: torch.Tensor,
        advantages: torch.Tensor,
        weights: torch.Tensor,
        reference: torch.Tensor | None,
        microbatch: Microbatch,
        normaliser: Normalizer,
    ) -> Cost:
        """`proximal`, `reference` and `weights` are [T]; `advantages` has one value a sequence of the microbatch."""
        current = scores.logprobs
        losses, bounded = self._objective(
            Tokens(
                current=current,
                proximal=proximal,
                behaviour=microbatch.behaviour_logprobs,
                advantages=advantages[microbatch.rows],
                weights=weights,
                lengths=microbatch.lengths,
            )
        )
        divergence = None
        if reference is not None:
            divergence = self.divergence(current, reference)
            losses = losses + self._settings.reference.coefficient * weights * divergence
            divergence = divergence.detach()
        if scores.mean_score is not None:
            losses = losses + weights * advantages[microbatch.rows] * scores.mean_score
        if self._settings.entropy_coefficient:
            losses = losses - self._settings.entropy_coefficient * weights * scores.entropy
        return Cost(aggregate(losses, microbatch.lengths, self._settings.aggregation, normaliser), bounded, divergence)

    def divergence(self, logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """The estimate for each token, [T]."""
        return reference_kl(logprobs, reference, self._settings.reference.estimator)
