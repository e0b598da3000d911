"""One optimizer batch: groups turned into advantages, updates and microbatches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ais_core.advantages import estimate
from ais_core.objectives import Normalizer
from services.contracts.trajectory import ScoredGroup
from services.trainer.microbatch import Microbatch, Sample, cut
from services.trainer.settings import TrainerSettings


@dataclass(frozen=True)
class Update:
    """The part of a batch that one optimizer update is made from."""

    microbatches: list[Microbatch]
    normaliser: Normalizer
    """Counts over the whole update: what makes the microbatches' losses add up."""


@dataclass(frozen=True)
class Batch:
    """The groups of one optimizer batch, ready for the forward pass. N trajectories."""

    rewards: torch.Tensor
    """float32 [N]."""
    advantages: torch.Tensor
    """float32 [N]."""
    updates: list[Update]
    tokens: int
    """Response tokens."""
    staleness: list[int]
    """[N]: versions between a trajectory's oldest token and the policy it trains."""

    @property
    def microbatches(self) -> list[Microbatch]:
        return [microbatch for update in self.updates for microbatch in update.microbatches]


def prepare(groups: Sequence[ScoredGroup], version: int, settings: TrainerSettings, device: torch.device) -> Batch:
    """Turns groups into a batch for the policy at `version`.

    Advantages come from the whole batch. With several updates a batch, each gets its share of whole groups, in order.
    """
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    rewards = torch.tensor([reward for group in groups for reward in group.rewards])
    group_of = torch.tensor([index for index, group in enumerate(groups) for _ in group.trajectories])
    updates = []
    first = 0
    for share in _shares(groups, settings.updates_per_batch):
        samples = [Sample(group.prompt_token_ids, one) for group in share for one in group.trajectories]
        microbatches = [part.to(device) for part in cut(samples, settings.tokens_per_microbatch, first)]
        normaliser = Normalizer(
            tokens=sum(len(sample.trajectory.token_ids) for sample in samples),
            sequences=len(samples),
            constant_length=max(sample.trajectory.sampling.max_new_tokens for sample in samples),
        )
        updates.append(Update(microbatches, normaliser))
        first += len(samples)
    return Batch(
        rewards=rewards,
        advantages=estimate(settings.advantage, rewards, group_of).to(device),
        updates=updates,
        tokens=sum(len(trajectory.token_ids) for trajectory in trajectories),
        staleness=[version - trajectory.oldest_version for trajectory in trajectories],
    )


def _shares(groups: Sequence[ScoredGroup], parts: int) -> list[Sequence[ScoredGroup]]:
    """`groups` in at most `parts` runs of nearly equal size, none empty."""
    bounds = [round(part * len(groups) / parts) for part in range(parts + 1)]
    return [groups[begin:end] for begin, end in pairwise(bounds) if end > begin]
