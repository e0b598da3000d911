"""Routing replay of one family: how far are replica and trainer apart with the replica's experts, and without?

One replica records its routed experts. The trainer scores the same responses twice: by the experts of its own routers,
and by those that were recorded.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ais.collector.replicas.generation import GenerationClient
from ais.runtime.security.roles import Role
from ais.trainer.policy.microbatch import OWN_CHOICE, Sample, cut
from ais.trainer.policy.policy import Policy
from ais.trainer.policy.routing import is_router
from ais_core import summarize
from benchmarks.mismatch import measure as sums_of
from benchmarks.models.families import write_family
from benchmarks.models.measure import FORMATS, Closing, sampled
from benchmarks.updates import replica

FAMILIES = ("Qwen3-MoE", "GPT-OSS")
RECORDING = "run.routing_replay=true"


@dataclass(frozen=True)
class Replay:
    """What one replica showed."""

    family: str
    format: str
    log_ratio: float
    """Mean |log-ratio| of the trainer, by its own routing, and the replica, nats a token."""
    k3: float
    replayed_log_ratio: float
    """With the replica's routing."""
    replayed_k3: float
    other_experts: float
    """Share of tokens that were read, and layers, where the trainer chooses another set of experts."""
    tokens: int
    """Sampled ones."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def measure(family: str, format_: str, log: Path) -> Replay:
    """By a real vLLM replica of the family."""
    with tempfile.TemporaryDirectory() as temporary:
        model = write_family(family, Path(temporary) / "model")
        async with replica("vllm", model, (*FORMATS[format_], RECORDING), log) as (_, record, keyring):
            client = GenerationClient(record.grpc_address, credential=keyring.credential(Role.COLLECTOR))
            async with contextlib.aclosing(Closing(client)):
                groups = await sampled(client, for_training=True)
        policy = Policy.load(model, "cpu")
        own = summarize(sums_of(policy, groups, 4096).sum(0))
        others = _other_experts(policy, groups)
        policy.replay_routing()
        replayed = summarize(sums_of(policy, groups, 4096).sum(0))
    return Replay(
        family=family,
        format=format_,
        log_ratio=own.mean_abs_log_ratio,
        k3=own.k3,
        replayed_log_ratio=replayed.mean_abs_log_ratio,
        replayed_k3=replayed.k3,
        other_experts=others,
        tokens=sum(len(one.trajectory.token_ids) for group in groups for one in group),
    )


def _other_experts(policy: Policy, groups: Sequence[Sequence[Sample]]) -> float:
    differing = total = 0
    for microbatch in cut([one for group in groups for one in group], tokens_per_microbatch=4096):
        assert microbatch.routes is not None
        with _chosen(policy) as chosen, torch.no_grad():
            policy.score(microbatch)
        shape = (*microbatch.input_ids.shape, -1)
        own = torch.stack([one.reshape(shape) for one in chosen], dim=2).sort(-1).values
        told = microbatch.routes.long().sort(-1).values
        read = told[..., 0] != OWN_CHOICE
        differing += int((own != told).any(-1)[read].sum())
        total += int(read.sum())
    return differing / total


@contextmanager
def _chosen(policy: Policy) -> Iterator[list[torch.Tensor]]:
    """What the routers choose meanwhile, layer by layer."""
    chosen: list[torch.Tensor] = []
    routers = [part for part in policy.model.modules() if is_router(part)]
    hooks = [one.register_forward_hook(lambda _router, _inputs, output: chosen.append(output[2])) for one in routers]
    try:
        yield chosen
    finally:
        for hook in hooks:
            hook.remove()


HEAD = ("family", "format", "mean \\|log-ratio\\|, k3", "with the replica's experts", "other experts")


def rows(found: Sequence[Replay]) -> list[tuple[str, ...]]:
    """The table's."""
    return [
        (
            one.family,
            one.format.upper(),
            f"{one.log_ratio:.3g}, {one.k3:.2g}",
            f"{one.replayed_log_ratio:.3g}, {one.replayed_k3:.2g}",
            f"{100 * one.other_experts:.2f}%",
        )
        for one in found
    ]


def replays(file: Path) -> list[Replay]:
    """The recorded ones, the newest of each."""
    names = {field.name for field in fields(Replay)}
    found: dict[tuple[str, str], Replay] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        one = Replay(**{name: value for name, value in record.items() if name in names})
        found[one.family, one.format] = one
    return list(found.values())
