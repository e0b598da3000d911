"""Spreads the policy over ranks: FSDP2 shards the float32 masters and gathers each layer in BF16 while it computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ais.contracts.routing.shape import routing_shape
from ais.contracts.weights.offer import DigestBuilder
from ais.trainer.policy.adapters import adapters_of
from ais.trainer.policy.policy import Policy
from ais.trainer.policy.scoring import ScoringModel
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import TrainerSettings
from ais.trainer.weights.snapshot import value_bytes


def load_policy(
    model: Path,
    settings: TrainerSettings,
    ranks: Ranks,
    seed: int = 0,
    compute_dtype: torch.dtype = torch.bfloat16,
    routing_replay: bool = False,
) -> Policy:
    """Loads the policy to be trained and shards it over several ranks. Each rank first reads all of it into the host's
    memory. A policy with adapters, whose first values `seed` draws, is whole on each rank. Raises UnavailableError."""
    ranks.attach_thread()
    if settings.lora.rank:
        policy, digest = _load_whole(model, str(ranks.device), compute_dtype)
        policy.adapt(adapters_of(policy.model, model, settings.lora, seed), digest)
        policy.merges_as_replicas = settings.push.lora == "adapter"
    else:
        device = "cpu" if ranks.mesh else str(ranks.device)
        policy = Policy.load(model, device, compute_dtype=compute_dtype)
    policy.scoring.float32_head = settings.float32_head
    if routing_replay:
        policy.replay_routing()
    policy.scoring.tokens_at_once = settings.compute.tokens_per_microbatch
    if settings.compute.activation_checkpointing:
        policy.scoring.checkpoint_activations()
    if ranks.mesh and not policy.adapters:
        shard(policy, ranks.mesh)
    return policy


def load_frozen(
    model: Path, ranks: Ranks, trained: ScoringModel, dtype: torch.dtype = torch.bfloat16
) -> tuple[Policy, str]:
    """Loads a policy that gradients do not change, and the digest of its weights. It computes like the one that is
    `trained`, and is sharded like that. Raises UnavailableError."""
    policy, digest = _load_whole(model, "cpu" if ranks.mesh else str(ranks.device), trained.compute_dtype, dtype)
    policy.scoring.float32_head = trained.float32_head
    if trained.replay is not None and routing_shape(policy.model.config.to_dict()) == trained.replay.shape:
        policy.replay_routing()
    if ranks.mesh:
        shard(policy, ranks.mesh)
    return policy, digest


def _load_whole(
    model: Path, device: str, compute_dtype: torch.dtype, dtype: torch.dtype = torch.bfloat16
) -> tuple[Policy, str]:
    policy = Policy.load(model, device, dtype, compute_dtype)
    policy.model.requires_grad_(False)
    digest = DigestBuilder()
    for name, weight in policy.weights():
        digest.update(name.encode())
        digest.update(value_bytes(weight.cpu()))
    return policy, digest.result()


def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Keeps this rank's shard of the masters, on the mesh's device, and lets the rest go.

    Gradients are summed over ranks in float32, not averaged: each rank's loss is normalised for the whole batch.
    """
    scoring = policy.scoring
    precision = MixedPrecisionPolicy(
        param_dtype=scoring.compute_dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # temperatures are float32
    )
    for layer in scoring.layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    # What is left (embeddings, head, last norm) is let go after a forward pass like a layer: a pass without gradients,
    # such as the probe's, has no backward pass to let it go, and the next one would compute with the weights of before.
    fully_shard(scoring, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    for module in scoring.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum
    scoring.rounded_by_sharding = True


def gathered(policy: Policy, ranks: Ranks) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the weights as they are published, in BF16 on the CPU, whole, one by one by sorted name, on rank 0 only.

    The other ranks must exhaust the iterator too; it yields them nothing. Only one weight is whole at a time, of a
    mixture's experts those of one layer.
    """

    def gather(name: str) -> torch.Tensor:
        with ranks.phase(f"gathering {name}"):
            return whole(policy.weight(name)).to("cpu" if ranks.first else "meta")

    for name, weight in policy.published.tensors(gather):
        if ranks.first:
            yield name, weight


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a whole tensor. For a DTensor this is a collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
