"""A mixture of experts that is trained: what the trainer publishes of Qwen3-MoE, a live vLLM replica takes; which
experts read each token, it tells; and its head is computed in float32 where that is set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch

from ais.contracts.sampling import Precision
from ais.contracts.weights.offer import WeightsStatus
from ais.rollout.engine import Completion
from ais.rollout.settings import RolloutSettings
from ais.trainer.policy.policy import Policy
from ais.trainer.policy.routing import is_router
from ais.trainer.weights.snapshot import Snapshot, write_snapshot
from benchmarks.models.families import VOCABULARY, write_family
from benchmarks.updates import snapshots
from tests.support.replicas.vllm_replica import PROMPT, VllmReplica, collect, request, until, vllm_replica_of, whole

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PRECISION = Precision(weights="bf16", float32_head=True)
SEQUENCE = tuple(7 * position % 62 + 2 for position in range(40))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("Qwen3-MoE", tmp_path_factory.mktemp("mixture"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmReplica]:
    settings = RolloutSettings(engine="vllm", slots=4, max_model_len=64, precision=PRECISION)
    staging = tmp_path_factory.mktemp("staging")
    async with vllm_replica_of(mixture, settings, staging, routing_replay=True) as started:
        yield started


async def pushed(replica: VllmReplica, snapshot: Snapshot) -> WeightsStatus:
    answer = await replica.push(*(file.path.read_bytes() for file in snapshot.files))
    assert answer.status_code == 200, answer.text
    return WeightsStatus.model_validate(answer.json())


async def test_the_trainers_versions_are_served_as_the_trainer_computes_them(
    mixture: Path, replica: VllmReplica
) -> None:
    """The probe is of the trainer's policy in BF16, with the very weights that were pushed."""
    first, other = snapshots(mixture)
    (before,) = await replica.score([SEQUENCE])
    (trained,) = scored(Policy.load(mixture, "cpu"), True, [SEQUENCE])
    assert np.abs(before - trained).mean() < 0.05
    status = await pushed(replica, other)
    assert status.probe_gap is not None
    assert status.probe_gap < 0.05
    (changed,) = await replica.score([SEQUENCE])
    assert np.abs(changed - before).mean() > 0.1
    await pushed(replica, first)
    (after,) = await replica.score([SEQUENCE])
    assert (after == before).all()


async def test_a_float32_head_rounds_no_logit(mixture: Path, replica: VllmReplica) -> None:
    """Some of 64 logits are equal once they are rounded to BF16, which has 128 numbers from 1 to 2."""
    assert str(replica.engine.describe().precision) == "bf16, float32 head"
    prefixes = [SEQUENCE[:length] for length in (3, 9, 21)]
    policy = Policy.load(mixture, "cpu")
    for prefix in prefixes:
        sequences = [(*prefix, token) for token in range(VOCABULARY)]
        served = [float(scores[-1]) for scores in await replica.score(sequences)]
        rounded, exact = ([scores[-1] for scores in scored(policy, head, sequences)] for head in (False, True))
        assert len(set(rounded)) < len(set(exact)) == len(set(served)) == VOCABULARY
        assert np.abs(np.subtract(served, exact)).mean() < 0.05


def scored(policy: Policy, float32_head: bool, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """By the trainer's policy."""
    policy.scoring.float32_head = float32_head
    return policy.sequence_logprobs(sequences)


def own_experts(policy: Policy, tokens: Sequence[int]) -> np.ndarray:
    """[tokens - 1, layers, k]: what the trainer's routers choose, sorted."""
    chosen: list[torch.Tensor] = []
    routers = [part for part in policy.model.modules() if is_router(part)]
    hooks = [one.register_forward_hook(lambda _part, _inputs, output: chosen.append(output[2])) for one in routers]
    policy.sequence_logprobs([tokens])
    for hook in hooks:
        hook.remove()
    return torch.stack(chosen, dim=1).sort(-1).values.numpy()


def agreement(completion: Completion, experts: np.ndarray, begin: int = 0, end: int | None = None) -> float:
    """Share of tokens [begin, end) that were read, and layers, where the replica sent a token to the same `experts`."""
    assert completion.routed is not None
    told = np.sort(completion.routed.expert_ids, axis=-1)
    assert told.shape == experts.shape
    return float((told == experts).all(-1)[begin:end].mean())


async def test_the_recorded_experts_are_those_that_the_trainers_routers_choose(
    mixture: Path, replica: VllmReplica
) -> None:
    """Nearly all: two orders of additions differ by a rounding. Of eight responses, more than there is room for."""
    policy = Policy.load(mixture, "cpu")
    wanted = request(samples=8, new_tokens=32)
    completions = await collect(replica.engine, wanted)
    shares = [agreement(one, own_experts(policy, whole(one))) for one in completions]
    assert np.mean(shares) > 0.97
    (silent,) = await collect(replica.engine, replace(wanted, samples=1, for_training=False))
    assert silent.routed is None


async def test_across_an_update_each_token_has_the_experts_of_the_version_that_sampled_from_it(
    mixture: Path, replica: VllmReplica, tmp_path: Path
) -> None:
    """What vLLM computes again with the new weights replaces what the old ones chose for the prompt alone."""
    policies = [Policy.load(one, "cpu") for one in (mixture, write_family("Qwen3-MoE", tmp_path / "other", seed=1))]
    versions = [write_snapshot(0, policy.shapes, policy.weights()) for policy in policies]
    await pushed(replica, versions[0])
    for place in (1, 0, 1, 0, 1, 0):  # until an update has come while a response was sampled
        sampling = asyncio.create_task(collect(replica.engine, request(new_tokens=44, stop_token_ids=())))
        await until(lambda: replica.engine.load().running_sequences > 0)
        await pushed(replica, versions[place])
        (completion,) = await sampling
        if len(completion.spans) == 2 and 3 <= completion.spans[1].begin <= 40:
            break
    assert len(completion.spans) == 2
    tokens, prompt = whole(completion), len(PROMPT) - 1
    new, old = (own_experts(policies[one], tokens) for one in (place, 1 - place))
    switch = prompt + completion.spans[1].begin
    assert agreement(completion, np.concatenate((new[:prompt], old[prompt:switch], new[switch:]))) > 0.95
    assert agreement(completion, new) < 0.95
