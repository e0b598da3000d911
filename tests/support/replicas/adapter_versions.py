"""Versions of a model that adapters were trained for, made by the trainer's own parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ais.contracts.weights.probe import Probe
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.ranks.sharding import gathered, load_policy
from ais.trainer.settings import TrainerSettings
from ais.trainer.weights.snapshot import Snapshot, Staging, write_snapshot

SEQUENCES = ((1, 5, 9, 3, 3, 7, 11), (2, 4), (8, 6, 4, 2, 1, 3))
"""The probe's."""


def adapter_versions(model: Path, staging: Path, rank: int = 2, shard_bytes: int = 60_000) -> Callable[[int], Snapshot]:
    """Makes versions whose adapters are random, in several files, with the trainer's probe."""
    staging.mkdir(exist_ok=True)
    ranks = Ranks(torch.device("cpu"))
    settings = TrainerSettings.model_validate(
        {"lora": {"rank": rank}, "push": {"lora": "adapter"}, "compute": {"device": "cpu"}}
    )
    policy = load_policy(model, settings, ranks)

    def make(version: int) -> Snapshot:
        assert policy.adapters
        generator = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for pair in policy.adapters.pairs.values():
                pair.b.copy_(0.02 * torch.randn(pair.b.shape, generator=generator))
        logprobs = tuple(tuple(one) for one in policy.sequence_logprobs(SEQUENCES))
        snapshot = write_snapshot(
            version, policy.shapes, gathered(policy, ranks), Probe(SEQUENCES, logprobs), Staging(staging, shard_bytes)
        )
        policy.adapters.save(snapshot.adapter)
        return snapshot

    return make
