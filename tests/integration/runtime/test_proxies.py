"""Services reach each other directly, whatever proxy the environment names, unless the run asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.sampling import SamplingParameters
from ais.contracts.weights.offer import full_offer
from ais.contracts.weights.upload import TransientUploadError, these, upload, upload_client
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings
from tests.support.forward_proxy import ForwardProxy, forward_proxy
from tests.support.recordings import recorded_group, recording
from tests.support.replicas.replica_process import overrides, process, registered
from tests.support.replicas.scripted_replicas import BOUNDS, Stage, honest

MODEL = Path(__file__).parents[3] / "examples/sort16/model"


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ForwardProxy]:
    """One that every client would go through that reads the environment."""
    async with forward_proxy() as proxy:
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        yield proxy


async def generate(address: str, use_proxy: bool) -> int:
    client = GenerationClient(address, use_proxy)
    try:
        return len(await client.generate("group", [3, 4, 5, 6], 2, SamplingParameters(), BOUNDS, 5.0))
    finally:
        await client.close()


async def test_a_generation_call_never_asks_the_proxy(redis: Redis, run_name: str, proxy: ForwardProxy) -> None:
    stage = Stage(redis, run_name)
    async with stage.replica("a", honest):
        (record,) = await stage.registry.replicas()
        for address in (record.grpc_address, record.grpc_address.replace("127.0.0.1", "localhost")):
            assert await generate(address, use_proxy=False) == 2
    assert proxy.requests == []


async def test_a_generation_call_asks_the_proxy_when_the_run_says_so(proxy: ForwardProxy) -> None:
    with pytest.raises(GenerationError):
        await generate("replica.example:50051", use_proxy=True)
    assert proxy.requests[0].startswith(b"CONNECT replica.example:50051")


async def test_an_upload_asks_the_proxy_only_when_the_run_says_so(proxy: ForwardProxy) -> None:
    files = [MODEL / "model.safetensors"]
    url = "http://127.0.0.1:9"  # nobody listens there
    for use_proxy, asked in ((False, 0), (True, 1)):
        async with upload_client(5.0, use_proxy) as client:
            with pytest.raises(TransientUploadError):
                await upload(client, url, full_offer(1, files), these(files))
        assert len(proxy.requests) == asked


async def test_redis_is_never_reached_through_the_proxy(redis_url: str, proxy: ForwardProxy) -> None:
    client = await connect(RedisSettings(url=redis_url))
    await client.aclose()
    assert proxy.requests == []


async def test_a_replica_and_the_collectors_evaluation_run_beside_a_proxy(
    redis: Redis, redis_url: str, run_name: str, keys: Keys, tmp_path: Path, proxy: ForwardProxy
) -> None:
    """Real processes with the proxy in their environment: push of a checkpoint, Describe, Generate."""
    file = recording(tmp_path, recorded_group((4, 5, 6), [5]))
    step = tmp_path / "step-000001"
    step.symlink_to(MODEL)
    settings = overrides(MODEL, redis_url, run_name, "rollout.engine=replay", f"rollout.replay.recording={file}")
    async with process(*settings):
        record = await registered(ReplicaRegistry(redis, keys))
        ended = await _evaluate(record.grpc_address, record.http_url, step, tmp_path / "scores.jsonl", settings)
    assert ended == 0
    assert (tmp_path / "scores.jsonl").read_text().count("\n") == 1
    assert proxy.requests == []


async def _evaluate(grpc_address: str, http_url: str, step: Path, output: Path, settings: tuple[str, ...]) -> int:
    from ais.launcher.processes.commands import module

    overridden = [part for setting in settings for part in ("--set", setting)]
    command = module("ais.collector.evaluation", *overridden, "--replica", f"{grpc_address},{http_url}")
    more = ("--checkpoints", str(step), "--prompts", "2", "--output", str(output))
    running = await asyncio.create_subprocess_exec(*command, *more)
    return await asyncio.wait_for(running.wait(), 120)
