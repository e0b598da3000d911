"""The replay engine, alone and as a real process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import pytest
from redis.asyncio import Redis

from ais.contracts.handing_back import is_handed_back
from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.sampling import FinishReason, SamplingParameters
from ais.contracts.trajectory import PolicySpan, TrajectoryBounds, decode_trajectory
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.contracts.weights.offer import digest_of
from ais.rollout.engine import EngineDrainingError, EngineFailedError, EngineFullError, ModelUnsupportedError
from ais.rollout.engines.replay_engine.engine import ReplayEngine
from ais.rollout.settings import ReplaySettings, RolloutSettings
from ais.runtime.security.roles import Role
from tests.support.access import bearer, metadata
from tests.support.recordings import recorded_group, recording
from tests.support.replicas.pushing import push
from tests.support.replicas.replica_process import overrides, process, registered
from tests.support.tiny_models import Observer, collect, request_for, until

MODEL = Path(__file__).parents[3] / "examples/sort16/model"
PROMPT, OTHER_PROMPT = (4, 5, 6), (7, 8)

Open = Callable[..., Awaitable[ReplayEngine]]


@pytest.fixture
async def open_replay(tmp_path: Path) -> AsyncIterator[Open]:
    """Engines that are closed when the test ends. They know two prompts, with responses of tokens 3 and 9."""
    file = recording(tmp_path, recorded_group(PROMPT, [5, 9], token=3), recorded_group(OTHER_PROMPT, [7], token=9))
    async with AsyncExitStack() as stack:

        async def opened(tokens_per_second: float = 1e6, slots: int = 8) -> ReplayEngine:
            replay = ReplaySettings(recording=file, tokens_per_second=tokens_per_second, first_token_seconds=0.0)
            settings = RolloutSettings(engine="replay", slots=slots, max_waiting_sequences=8, replay=replay)
            engine = await ReplayEngine.open(MODEL, settings, Observer())
            stack.push_async_callback(engine.close)
            return engine

        yield opened


async def test_a_recorded_prompt_gets_its_own_responses_in_turn(open_replay: Open) -> None:
    completions = await collect(await open_replay(), request_for(PROMPT, samples=3, new_tokens=100))
    assert {c.index: len(c.token_ids) for c in completions} == {0: 5, 1: 9, 2: 5}
    assert {int(token) for c in completions for token in c.token_ids} == {3}
    assert {c.finish_reason for c in completions} == {FinishReason.STOP}
    other = await collect(await open_replay(), request_for(OTHER_PROMPT, samples=1, new_tokens=100))
    assert other[0].token_ids.tolist() == [9] * 7


async def test_a_response_longer_than_asked_for_is_cut(open_replay: Open) -> None:
    (completion,) = await collect(await open_replay(), request_for(PROMPT, samples=1, new_tokens=4))
    assert (len(completion.token_ids), len(completion.logprobs)) == (4, 4)
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.spans == (PolicySpan(0, 0, 4),)


async def test_as_many_go_at_once_as_there_are_slots(open_replay: Open) -> None:
    engine = await open_replay(tokens_per_second=1e-3, slots=2)
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=5, new_tokens=9)))
    await until(lambda: engine.load().running_sequences == 2)
    assert engine.load().waiting_sequences == 3
    with pytest.raises(EngineFullError):
        await collect(engine, request_for(PROMPT, samples=6))
    running.cancel()
    await until(lambda: engine.load().running_sequences + engine.load().waiting_sequences == 0)


async def test_a_drain_hands_back_what_is_not_finished_in_time(open_replay: Open) -> None:
    engine = await open_replay(tokens_per_second=1e-3)
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=2, new_tokens=9)))
    await until(lambda: engine.load().running_sequences == 2)
    await engine.drain(0.01)
    with pytest.raises(EngineDrainingError):
        await running
    with pytest.raises(EngineDrainingError):
        await collect(engine, request_for(PROMPT))


async def test_closing_fails_what_runs_and_tells_the_replica(open_replay: Open) -> None:
    engine = await open_replay(tokens_per_second=1e-3)
    told: asyncio.Future[EngineFailedError] = asyncio.get_running_loop().create_future()
    engine.on_failure(told.set_result)
    running = asyncio.create_task(collect(engine, request_for(PROMPT, new_tokens=9)))
    await until(lambda: engine.load().running_sequences > 0)
    await engine.close()
    with pytest.raises(EngineFailedError):
        await running
    assert "closed" in str(await told)


@pytest.mark.parametrize("content", [b"", b"\x05\x00\x00\x00ab", b"\x02\x00\x00\x00ab", None])
async def test_a_file_without_groups_is_a_clear_error(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "wrong.groups"
    if content is not None:
        file.write_bytes(content)
    settings = RolloutSettings(engine="replay", replay=ReplaySettings(recording=file))
    with pytest.raises(ModelUnsupportedError, match=r"rollout\.replay\.recording.*wrong\.groups"):
        await ReplayEngine.open(MODEL, settings, Observer())


async def test_a_replay_replica_is_light_takes_weights_and_hands_back_what_it_cannot_finish(
    redis: Redis, redis_url: str, run_name: str, keys: Keys, tmp_path: Path
) -> None:
    file = recording(tmp_path, recorded_group(PROMPT, [100]))
    replay = ("rollout.engine=replay", f"rollout.replay.recording={file}", "rollout.drain_seconds=0.2")
    async with process(
        *overrides(MODEL, redis_url, run_name, *replay, "rollout.replay.tokens_per_second=100")
    ) as replica:
        registry = ReplicaRegistry(redis, keys)
        record = await registered(registry)
        assert (record.engine, record.model_type, record.vocab_size) == ("replay", "qwen3", 22)
        mapped = [region.path for region in psutil.Process(replica.pid).memory_maps()]
        assert [path for path in mapped if "libtorch" in path] == []
        body = (MODEL / "model.safetensors").read_bytes()
        assert record.policy_digest == digest_of(body)
        async with (
            grpc.aio.insecure_channel(record.grpc_address) as channel,
            httpx.AsyncClient(base_url=record.http_url, headers=bearer(Role.TRAINER)) as client,
        ):
            request = rollout_pb2.GenerateRequest(
                group_id="group",
                prompt_token_ids=np.array(PROMPT, dtype="<i4").tobytes(),
                samples=1,
                sampling=SamplingParameters(max_new_tokens=200).to_proto(),
            )
            call = rollout_pb2_grpc.RolloutStub(channel).Generate(
                request, timeout=60, metadata=metadata(Role.COLLECTOR)
            )
            crossing = asyncio.ensure_future(call.read())
            await until_running(client)
            assert (await push(client, 5, body)).status_code == 200
            trajectory = decode_trajectory(await crossing, TrajectoryBounds(record.vocab_size))
            assert [span.version for span in trajectory.spans] == [0, 5]
            assert (await registered(registry, version=5)).replica_id == record.replica_id
            cut = rollout_pb2_grpc.RolloutStub(channel).Generate(request, timeout=60, metadata=metadata(Role.COLLECTOR))
            waiting = asyncio.ensure_future(cut.read())
            await until_running(client)
            replica.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await waiting
        assert is_handed_back(error.value.trailing_metadata())
        assert await asyncio.wait_for(replica.wait(), 20) == 0


async def until_running(client: httpx.AsyncClient) -> None:
    """Returns when a sequence is being replayed."""
    async with asyncio.timeout(20):
        while (
            "ais_rollout_running_sequences 1.0" not in (await client.get("/metrics", headers=bearer(Role.METRICS))).text
        ):
            await asyncio.sleep(0.01)
