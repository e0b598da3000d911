"""A mixture of experts that is trained: what the trainer publishes of Qwen3-MoE, a live vLLM replica takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from ais.contracts.sampling import Precision
from ais.contracts.weights.offer import WeightsStatus
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.settings import RolloutSettings
from ais.rollout.weights.control_api import control_application
from ais.rollout.weights.intake import WeightIntake
from ais.runtime.network.http import serve
from ais.trainer.policy.policy import Policy
from ais.trainer.weights.snapshot import Snapshot
from benchmarks.models.families import write_family
from benchmarks.updates import snapshots
from tests.support.replicas.vllm_replica import VllmReplica

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

SEQUENCE = tuple(7 * position % 62 + 2 for position in range(40))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("Qwen3-MoE", tmp_path_factory.mktemp("mixture"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmReplica]:
    from ais.rollout.engines.vllm_engine.opening import open_vllm

    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry)
    settings = RolloutSettings(engine="vllm", slots=4, max_model_len=64, precision=Precision(weights="bf16"))
    engine = await open_vllm(mixture, settings, metrics, registry)
    try:
        files = [mixture / "model.safetensors"]
        intake = WeightIntake(engine, tmp_path_factory.mktemp("staging"), metrics, applied=lambda: None, model=files)
        async with (
            serve(control_application(registry, lambda: None, intake), "127.0.0.1", 0) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
        ):
            yield VllmReplica(engine, registry, client)
    finally:
        await engine.close()


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
    (trained,) = Policy.load(mixture, "cpu").sequence_logprobs([SEQUENCE])
    assert np.abs(before - trained).mean() < 0.05
    status = await pushed(replica, other)
    assert status.probe_gap is not None
    assert status.probe_gap < 0.05
    (changed,) = await replica.score([SEQUENCE])
    assert np.abs(changed - before).mean() > 0.1
    await pushed(replica, first)
    (after,) = await replica.score([SEQUENCE])
    assert (after == before).all()
