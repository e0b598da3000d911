"""Turns groups into one optimizer batch: advantages, updates and microbatches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import torch

from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import ScoredGroup
from ais.trainer.policy.microbatch import Microbatch, Sample, cut, deal, nothing
from ais.trainer.policy.shared_prompts import cost, packed
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import TrainerSettings
from ais_core.advantages import estimate
from ais_core.objectives import Normalizer


@dataclass(frozen=True)
class Update:
    """The part of a batch that makes one optimizer update."""

    microbatches: list[Microbatch]
    """This rank's. Each rank has as many; some may hold nothing."""
    normaliser: Normalizer
    """Counts over the whole update and all ranks; they make the microbatches' losses add up."""


@dataclass(frozen=True)
class Batch:
    """The groups of one optimizer batch, ready for the forward pass. N trajectories."""

    rewards: torch.Tensor
    """float64 [N]."""
    group_of: torch.Tensor
    """int64 [N]: which group each trajectory is of."""
    advantages: torch.Tensor
    """float32 [N]."""
    updates: list[Update]
    tokens: int
    """Response tokens."""
    staleness: list[int]
    """[N]: versions between a trajectory's oldest token and the policy it trains."""
    truncated_share: float
    """Share of the trajectories that ended at max_new_tokens."""
    zero_variance_share: float
    """Share of the groups whose rewards are all equal."""

    @property
    def microbatches(self) -> list[Microbatch]:
        return [microbatch for update in self.updates for microbatch in update.microbatches]

    def penalised(self, penalties: torch.Tensor, advantage: str) -> Batch:
        """The batch with the advantages of its rewards less `penalties` (float64 [N]). Raises NonFiniteError."""
        advantages = estimate(advantage, self.rewards - penalties.cpu(), self.group_of)
        return replace(self, advantages=advantages.to(self.advantages.device))


def prepare(
    groups: Sequence[ScoredGroup],
    version: int,
    settings: TrainerSettings,
    ranks: Ranks,
    pairs_per_token: int | None = None,
) -> Batch:
    """Turns groups into a batch for the policy at `version`. With `pairs_per_token` (see `shared_prompts`) a
    prompt is read once for all its responses, where that is cheaper.

    Every rank gets all groups: advantages and counts come from the whole batch, and only the microbatches are dealt
    out. With several updates a batch, each gets its share of whole groups, in order.
    """
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    rewards = torch.tensor([reward for group in groups for reward in group.rewards], dtype=torch.float64)
    group_of = torch.tensor([index for index, group in enumerate(groups) for _ in group.trajectories])
    updates = []
    first = 0
    for share in _shares(groups, settings.objective.updates_per_batch):
        samples = [Sample(group.prompt_token_ids, one) for group in share for one in group.trajectories]
        microbatches = [part.to(ranks.device) for part in _share_of(samples, settings, first, ranks, pairs_per_token)]
        normaliser = Normalizer(
            tokens=sum(len(sample.trajectory.token_ids) for sample in samples),
            sequences=len(samples),
            constant_length=max(sample.trajectory.sampling.max_new_tokens for sample in samples),
        )
        updates.append(Update(microbatches, normaliser))
        first += len(samples)
    return Batch(
        rewards=rewards,
        group_of=group_of,
        advantages=estimate(settings.objective.advantage, rewards, group_of).to(ranks.device),
        updates=updates,
        tokens=sum(len(trajectory.token_ids) for trajectory in trajectories),
        staleness=[version - trajectory.oldest_version for trajectory in trajectories],
        truncated_share=sum(one.finish_reason is FinishReason.LENGTH for one in trajectories) / len(trajectories),
        zero_variance_share=sum(len(set(group.rewards)) == 1 for group in groups) / len(groups),
    )


def _share_of(
    samples: Sequence[Sample], settings: TrainerSettings, first: int, ranks: Ranks, pairs_per_token: int | None
) -> list[Microbatch]:
    """This rank's microbatches. FSDP gathers a layer on all ranks at once: they make the same number of passes."""
    budget, hands = settings.compute.tokens_per_microbatch, deal(samples, ranks.size)
    cuts = [cut(samples, budget, first, hand) for hand in hands]
    if pairs_per_token is not None:
        shared = [_packed(samples, cut(samples, budget, first, hand, by_prompt=True), first) for hand in hands]
        if cost([*chain(*shared)], pairs_per_token) < cost([*chain(*cuts)], pairs_per_token):
            cuts = shared
    own = cuts[ranks.rank]
    return own + [nothing(samples[0].trajectory.precision)] * (max(map(len, cuts)) - len(own))


def _packed(samples: Sequence[Sample], parts: Sequence[Microbatch], first: int) -> list[Microbatch]:
    """The microbatches, whose first sample has the number `first`, with a row for each prompt."""
    chosen = [[samples[index - first] for index in part.sequences.tolist()] for part in parts]
    return [
        packed(part, [passage for one in own for passage in one.passages])
        for part, own in zip(parts, chosen, strict=True)
    ]


def _shares(groups: Sequence[ScoredGroup], parts: int) -> list[Sequence[ScoredGroup]]:
    """`groups` in at most `parts` runs of nearly equal size, none empty."""
    bounds = [round(part * len(groups) / parts) for part in range(parts + 1)]
    return [groups[begin:end] for begin, end in pairwise(bounds) if end > begin]
