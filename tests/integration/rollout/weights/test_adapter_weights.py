"""Versions that come as adapters: what engines compute with them, in processes of their own too."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.sampling import Precision
from ais.contracts.weights.upload import these, upload
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.weights.control_api import control_application
from ais.rollout.weights.intake import WeightIntake
from ais.runtime.network.http import serve
from ais.trainer.weights.adapters import adapter
from ais.trainer.weights.deltas import Origin, full
from tests.support.replicas.adapter_versions import adapter_versions
from tests.support.replicas.publishing import publishing, sent
from tests.support.replicas.replica_process import overrides, process, registered
from tests.support.replicas.vllm_replica import PROMPT, SORT16, VllmReplica
from tests.support.tiny_models import collect, request_for

pytest.importorskip("peft", reason="needs the extra lora")

E4M3 = Precision(weights="e4m3", activations="e4m3")


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
async def test_a_quantised_engine_samples_with_an_adapter_as_with_merged_weights_to_the_bit(
    kind: str, open_engine: Callable, model_directory: Callable, tmp_path: Path
) -> None:
    """llama's model lies in several files, whose tensors are in the version's in another order."""
    directory = model_directory(kind)
    version = adapter_versions(directory, tmp_path / "trainer")(1)
    sampled = []
    async with AsyncExitStack() as stack:
        for name, parcel in (("merged", full(version, Origin())), ("adapter", adapter(version, Origin()))):
            staging = tmp_path / name
            staging.mkdir()
            engine, metrics = await open_engine(kind, E4M3), CollectorRegistry()
            intake = WeightIntake(
                engine,
                staging,
                RolloutMetrics(metrics),
                applied=lambda: None,
                model=sorted(directory.glob("*.safetensors")),
            )
            stack.push_async_callback(intake.close)
            app = control_application(metrics, lambda: None, intake)
            port = await stack.enter_async_context(serve(app, "127.0.0.1", 0))
            async with httpx.AsyncClient(timeout=20) as client:
                status = await upload(client, f"http://127.0.0.1:{port}", parcel.offer, these(parcel.files))
            assert (status.version, status.digest) == version.identity
            completions = await collect(engine, request_for((1, 5, 9), samples=4, seed=7))
            tokens = [(one.token_ids.tolist(), one.logprobs.tobytes()) for one in completions]
            sampled.append((status.probe_gap, tokens))
    assert sampled[0] == sampled[1]
    assert sampled[0][0] is not None


async def test_a_replica_that_was_killed_comes_back_with_its_model_and_an_adapter(
    model_directory: Callable, redis: Redis, redis_url: str, run_name: str, keys: Keys, tmp_path: Path
) -> None:
    registry, metrics = ReplicaRegistry(redis, keys), CollectorRegistry()
    versions = adapter_versions(model_directory("qwen3"), tmp_path / "trainer")
    settings = overrides(model_directory("qwen3"), redis_url, run_name)
    async with publishing(redis, keys, metrics, lora="adapter", deadline_seconds=30) as publisher:
        publisher.offer(version := versions(1))
        async with process(*settings) as replica:
            assert (await registered(registry, version=1)).policy_digest == version.digest
            publisher.offer(version := versions(2))
            killed = await registered(registry, version=2)
            replica.send_signal(signal.SIGKILL)
            await replica.wait()
        await registry.leave(killed.replica_id)
        async with process(*settings):
            assert (await registered(registry, version=2)).policy_digest == version.digest
    assert sent(metrics, "full") == sent(metrics, "delta") == 0
    assert sent(metrics, "adapter") < version.size


@pytest.mark.vllm
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.timeout(300)
async def test_vllm_computes_the_same_with_an_adapter_as_with_merged_weights(
    vllm_replica: VllmReplica, tmp_path: Path
) -> None:
    number = vllm_replica.engine.describe().version
    versions = adapter_versions(SORT16, tmp_path / "trainer")
    wanted = versions(number + 1)
    scores = []
    for parcel in (full(wanted, Origin()), full(versions(number + 2), Origin())):
        await upload(vllm_replica.client, "", parcel.offer, these(parcel.files))
        scores.append((await vllm_replica.score([PROMPT]))[0])
    again = adapter_versions(SORT16, tmp_path / "again")(number + 1)
    parcel = adapter(again, Origin())
    offer = parcel.offer.model_copy(update={"version": number + 3})
    await upload(vllm_replica.client, "", offer, these(parcel.files))
    scores.append((await vllm_replica.score([PROMPT]))[0])
    assert (scores[2] == scores[0]).all()
    assert np.abs(scores[1] - scores[0]).mean() > 0.0
