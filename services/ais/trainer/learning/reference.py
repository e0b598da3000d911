"""The policy that training is kept near, by [trainer.objective.reference]: what scores tokens for the penalty.

With adapters (LoRA), the start is the policy with its adapters off, and the average is an average of the adapters: no
weights are held a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.trainer.policy.adapters import Adapters
from ais.trainer.policy.microbatch import Microbatch
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.ranks.sharding import load_frozen
from ais.trainer.settings import TrainerSettings

START = "run.model"
"""What the digest of the model that the run began with is called."""


class Reference(Protocol):
    """A policy to compare with. On several ranks, all call its methods alike."""

    @property
    def frozen(self) -> Mapping[str, str]:
        """Digests of the models that it reads and that nobody changes, by where they are."""

    def logprobs(self, microbatch: Microbatch) -> torch.Tensor:
        """Log-probs of the response tokens, float32 [T], without a graph."""

    def follow(self) -> None:
        """The policy has been trained on one more batch."""

    @property
    def average(self) -> Mapping[str, torch.Tensor]:
        """What a checkpoint must keep, to be loaded in place; empty for a reference that does not move."""

    def begin(self) -> None:
        """Starts at the policy of now."""


class FixedReference:
    """A model that stays as it is."""

    average: Mapping[str, torch.Tensor] = {}

    def __init__(self, policy: Policy, frozen: Mapping[str, str]) -> None:
        self._policy = policy
        self.frozen = frozen

    @torch.no_grad()
    def logprobs(self, microbatch: Microbatch) -> torch.Tensor:
        return self._policy.score(microbatch).logprobs

    def follow(self) -> None:
        pass

    def begin(self) -> None:
        pass


class PolicyWithoutAdapters(FixedReference):
    """The start of a policy that is trained by adapters."""

    @torch.no_grad()
    def logprobs(self, microbatch: Microbatch) -> torch.Tensor:
        with self._policy.scoring.adapted(None):
            return self._policy.score(microbatch).logprobs


class AverageReference:
    """The exponential moving average of the policy: of its masters, or of its adapters where those are trained."""

    frozen: Mapping[str, str] = {}

    def __init__(self, policy: Policy, follower: Policy | Adapters, decay: float) -> None:
        """`follower` holds the average; it is a model of its own, sharded as the policy is, or adapters."""
        self._policy = policy
        self._follower = follower
        self._decay = decay

    @torch.no_grad()
    def logprobs(self, microbatch: Microbatch) -> torch.Tensor:
        if isinstance(self._follower, Policy):
            return self._follower.score(microbatch).logprobs
        with self._policy.scoring.adapted(self._follower):
            return self._policy.score(microbatch).logprobs

    def follow(self) -> None:
        self._move(1.0 - self._decay)

    @property
    def average(self) -> Mapping[str, torch.Tensor]:
        return {name: weight.detach() for name, weight in self._follower.masters.items()}

    def begin(self) -> None:
        self._move(1.0)

    @torch.no_grad()
    def _move(self, share: float) -> None:
        """Goes this share of the way to the policy."""
        masters = self._policy.masters
        for name, weight in self.average.items():
            weight.lerp_(masters[name].detach(), share)


def load_reference(run: RunSettings, settings: TrainerSettings, policy: Policy, ranks: Ranks) -> Reference | None:
    """The reference that the settings name; it computes as the policy does. All ranks call it, in the same place.

    Raises UnavailableError.
    """
    chosen, trained = settings.objective.reference, policy.scoring
    match chosen.policy:
        case "start":
            if policy.adapters:
                return PolicyWithoutAdapters(policy, {})
            start, digest = load_frozen(run.model, ranks, trained)
            return FixedReference(start, {START: digest})
        case "directory":
            assert chosen.directory is not None
            other, digest = load_frozen(chosen.directory, ranks, trained)
            if other.vocab_size != policy.vocab_size:
                raise UnavailableError(
                    f"trainer.objective.reference.directory: {chosen.directory} has {other.vocab_size} tokens, "
                    f"run.model has {policy.vocab_size}. A reference must have the policy's tokenizer."
                )
            return FixedReference(other, {str(chosen.directory.resolve()): digest})
        case "average":
            if policy.adapters:
                return AverageReference(policy, policy.adapters.copied(), chosen.decay)
            follower, _ = load_frozen(run.model, ranks, trained, torch.float32)
            return AverageReference(policy, follower, chosen.decay)
        case _:
            return None
