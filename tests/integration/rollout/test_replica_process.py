"""A replica as a real process: registers, serves, takes weights, drains on a signal; or says why it cannot start."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from ais.contracts.handing_back import is_handed_back
from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.sampling import SamplingParameters
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.runtime.security.roles import Role
from tests.support.access import bearer, metadata
from tests.support.replicas.pushing import push
from tests.support.replicas.replica_process import overrides, process, registered


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_replica_serves_takes_weights_and_finishes_its_work_on_a_signal(
    number: signal.Signals,
    model_directory: Callable[[str], Path],
    snapshot: Callable,
    redis: Redis,
    redis_url: str,
    run_name: str,
    keys: Keys,
) -> None:
    registry = ReplicaRegistry(redis, keys)
    settings = overrides(model_directory("qwen3"), redis_url, run_name, "rollout.slots=4", "rollout.drain_seconds=30")
    async with process(*settings) as replica:
        record = await registered(registry)
        assert (record.slots, record.engine, str(record.precision)) == (4, "torch", "e4m3/channel x e4m3")
        body, digest = snapshot()
        async with httpx.AsyncClient(base_url=record.http_url, timeout=20, headers=bearer(Role.TRAINER)) as client:
            ready = await client.get("/readyz")
            pushed = await push(client, 5, body)
            assert (ready.status_code, pushed.status_code) == (200, 200)
        assert (await registered(registry, version=5)).policy_digest == digest
        async with grpc.aio.insecure_channel(record.grpc_address) as channel:
            request = rollout_pb2.GenerateRequest(
                group_id="group",
                prompt_token_ids=np.array([1, 2, 3], dtype="<i4").tobytes(),
                samples=8,
                sampling=SamplingParameters(max_new_tokens=200).to_proto(),
            )
            trajectories = aiter(
                rollout_pb2_grpc.RolloutStub(channel).Generate(request, timeout=60, metadata=metadata(Role.COLLECTOR))
            )
            first = await anext(trajectories)
            replica.send_signal(number)
            rest = [trajectory async for trajectory in trajectories]
        assert len(rest) == 7
        assert {span.version for trajectory in (first, *rest) for span in trajectory.spans} == {5}
        assert await asyncio.wait_for(replica.wait(), 20) == 0
        assert await registry.replicas() == []


async def test_a_replica_hands_back_what_it_cannot_finish_in_time_and_ends(
    model_directory: Callable[[str], Path], redis: Redis, redis_url: str, run_name: str, keys: Keys
) -> None:
    settings = overrides(model_directory("qwen3"), redis_url, run_name, "rollout.slots=1", "rollout.drain_seconds=0.1")
    async with process(*settings) as replica:
        record = await registered(ReplicaRegistry(redis, keys))
        async with grpc.aio.insecure_channel(record.grpc_address) as channel:
            request = rollout_pb2.GenerateRequest(
                group_id="group",
                prompt_token_ids=np.array([1, 2, 3], dtype="<i4").tobytes(),
                samples=1000,
                sampling=SamplingParameters(max_new_tokens=20).to_proto(),
            )
            trajectories = aiter(
                rollout_pb2_grpc.RolloutStub(channel).Generate(request, timeout=60, metadata=metadata(Role.COLLECTOR))
            )
            await anext(trajectories)
            replica.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                async for _ in trajectories:
                    pass
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert is_handed_back(error.value.trailing_metadata())
        assert await asyncio.wait_for(replica.wait(), 10) == 0


async def test_a_model_that_is_not_there_is_a_clear_error(tmp_path: Path, redis_url: str, run_name: str) -> None:
    async with process(*overrides(tmp_path / "absent", redis_url, run_name)) as replica:
        _, errors = await asyncio.wait_for(replica.communicate(), 60)
    assert replica.returncode == 3
    assert b"run.model" in errors
    assert b"Traceback" not in errors


async def test_a_misspelt_setting_fails_at_once_with_the_nearest_name() -> None:
    begun = time.monotonic()
    async with process("rollout.slotz=3") as replica:
        _, errors = await asyncio.wait_for(replica.communicate(), 60)
    assert (replica.returncode, time.monotonic() - begun < 5) == (2, True)
    assert b"did you mean rollout.slots?" in errors
