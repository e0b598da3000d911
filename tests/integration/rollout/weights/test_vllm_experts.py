"""A mixture of experts that is trained: what the trainer publishes of Qwen3-MoE, a live vLLM replica takes; and its
head is computed in float32 where that is set."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from ais.contracts.sampling import Precision
from ais.contracts.weights.offer import WeightsStatus
from ais.rollout.settings import RolloutSettings
from ais.trainer.policy.policy import Policy
from ais.trainer.weights.snapshot import Snapshot
from benchmarks.models.families import VOCABULARY, write_family
from benchmarks.updates import snapshots
from tests.support.replicas.vllm_replica import VllmReplica, vllm_replica_of

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PRECISION = Precision(weights="bf16", float32_head=True)
SEQUENCE = tuple(7 * position % 62 + 2 for position in range(40))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("Qwen3-MoE", tmp_path_factory.mktemp("mixture"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmReplica]:
    settings = RolloutSettings(engine="vllm", slots=16, max_model_len=64, precision=PRECISION)
    async with vllm_replica_of(mixture, settings, tmp_path_factory.mktemp("staging")) as started:
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
