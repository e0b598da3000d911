"""vLLM replicas as real processes: BF16 on two tensor-parallel ranks, beside the session's FP8; and how they die."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import pytest
import pytest_asyncio
import torch
from redis.asyncio import Redis
from transformers import AutoModelForCausalLM, PreTrainedModel

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import TOKEN_DTYPE, Trajectory, TrajectoryBounds, decode_trajectory
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.contracts.weights.offer import WeightsStatus
from ais.contracts.weights.probe import Probe
from ais.runtime.network.redis import connect
from ais.runtime.security.roles import Role
from ais.runtime.settings import RedisSettings
from tests.support.access import bearer, metadata
from tests.support.replicas.pushing import push
from tests.support.replicas.replica_process import overrides, process, registered
from tests.support.replicas.vllm_replica import PROMPT, SORT16, VllmReplica, collect, demo_snapshot, request, shaken

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow, pytest.mark.timeout(300)]

RUN = "vllm-process"


@dataclass
class Bf16Replica:
    process: asyncio.subprocess.Process
    record: ReplicaRecord
    registry: ReplicaRegistry


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bf16_replica(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bf16Replica]:
    client: Redis = await connect(RedisSettings(url=redis_url))
    registry = ReplicaRegistry(client, Keys(RUN))
    ranks = ("rollout.vllm.tensor_parallel_size=2", "rollout.max_model_len=256")
    settings = overrides(SORT16, redis_url, RUN, "rollout.engine=vllm", "rollout.precision.weights=bf16", *ranks)
    log = tmp_path_factory.mktemp("bf16") / "replica.log"
    async with process(
        *settings, "rollout.max_model_len=256", "rollout.vllm.tensor_parallel_size=2", log=log
    ) as started:
        yield Bf16Replica(started, await registered(registry), registry)
    await client.aclose()


async def sampled(replica: Bf16Replica, samples: int) -> list[Trajectory]:
    wanted = rollout_pb2.GenerateRequest(
        group_id="group",
        prompt_token_ids=np.array(PROMPT, dtype=TOKEN_DTYPE).tobytes(),
        samples=samples,
        sampling=SamplingParameters(max_new_tokens=64, stop_token_ids=(0,)).to_proto(),
    )
    async with grpc.aio.insecure_channel(replica.record.grpc_address) as channel:
        stub = rollout_pb2_grpc.RolloutStub(channel)  # type: ignore[no-untyped-call]
        return [
            decode_trajectory(message, TrajectoryBounds(vocab_size=22))
            async for message in stub.Generate(wanted, timeout=60, metadata=metadata(Role.COLLECTOR))
        ]


def bf16_logprobs(token_ids: list[int], model: PreTrainedModel) -> list[float]:
    """Those of every token but the first, as a trainer would compute them."""
    with torch.no_grad():
        scores = torch.log_softmax(model(torch.tensor([token_ids])).logits[0, :-1].float(), -1)
    logprobs: list[float] = scores.gather(1, torch.tensor(token_ids[1:])[:, None]).squeeze(1).tolist()
    return logprobs


def gaps(responses: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean |difference| to transformers in BF16 of the log-probs recorded with some responses."""
    model = AutoModelForCausalLM.from_pretrained(SORT16, dtype=torch.bfloat16)
    differences = [
        np.abs(np.array(bf16_logprobs([*PROMPT, *token_ids.tolist()], model)[len(PROMPT) - 1 :]) - logprobs)
        for token_ids, logprobs in responses
    ]
    return float(np.concatenate(differences).mean())


async def test_bf16_logprobs_are_those_of_transformers_within_noise_and_fp8s_are_further(
    bf16_replica: Bf16Replica, vllm_replica: VllmReplica
) -> None:
    trajectories = await sampled(bf16_replica, samples=16)
    assert {str(trajectory.precision) for trajectory in trajectories} == {"bf16"}
    assert (await vllm_replica.push(demo_snapshot())).status_code == 200
    completions = await collect(vllm_replica.engine, request(samples=16, new_tokens=64))
    bf16 = gaps([(one.token_ids, one.behaviour_logprobs) for one in trajectories])
    fp8 = gaps([(one.token_ids, one.logprobs) for one in completions])
    assert bf16 < 0.03
    assert fp8 > 2 * bf16


async def test_every_tensor_parallel_rank_takes_a_new_version_and_the_probe_agrees(
    bf16_replica: Bf16Replica, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(demo_snapshot(shaken(1, share=0.3)))
    shutil.copy(SORT16 / "config.json", tmp_path)
    token_ids = [*PROMPT, *range(3, 19)]
    logprobs = bf16_logprobs(token_ids, AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16))
    probe = Probe((tuple(token_ids),), (tuple(logprobs),))
    payload = demo_snapshot(shaken(1, share=0.3), probe=probe)
    async with httpx.AsyncClient(
        base_url=bf16_replica.record.http_url, timeout=60, headers=bearer(Role.TRAINER)
    ) as client:
        answer = await push(client, 1, payload)
        assert answer.status_code == 200, answer.text
        assert WeightsStatus.model_validate(answer.json()).probe_gap < 0.05
    for trajectory in await sampled(bf16_replica, samples=2):
        assert [span.version for span in trajectory.spans] == [1]


def runs_engine_core(process: psutil.Process) -> bool:
    try:
        return "EngineCore" in process.name()
    except psutil.NoSuchProcess:  # it ended meanwhile
        return False


async def test_when_vllms_engine_process_is_killed_the_replica_ends_and_leaves_nothing(
    bf16_replica: Bf16Replica,
) -> None:
    """The last test of this replica: it fails the call in hand, leaves the registry, ends with an error."""
    children = psutil.Process(bf16_replica.process.pid).children(recursive=True)
    core = next(
        child for child in children if "EngineCore" in " ".join(child.cmdline()) or "EngineCore" in child.name()
    )
    call = asyncio.create_task(sampled(bf16_replica, samples=64))
    core.kill()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.wait_for(bf16_replica.process.wait(), 60) == 1
    assert await bf16_replica.registry.replicas() == []
    assert psutil.wait_procs(children, timeout=30)[1] == []


async def test_a_killed_replica_leaves_none_of_vllms_processes(redis_url: str, tmp_path: Path) -> None:
    """Also while it starts, when the model is being loaded."""
    settings = overrides(SORT16, redis_url, "killed", "rollout.engine=vllm")
    async with process(*settings, log=tmp_path / "log") as started:
        replica = psutil.Process(started.pid)
        children: list[psutil.Process] = []
        async with asyncio.timeout(120):
            while not any(runs_engine_core(child) for child in children):
                assert started.returncode is None, (tmp_path / "log").read_text()
                children = replica.children(recursive=True)
                await asyncio.sleep(0.1)
        started.kill()
        assert psutil.wait_procs(children, timeout=30)[1] == []


async def test_a_precision_this_host_cannot_compute_ends_the_start_with_what_it_can(
    redis_url: str, tmp_path: Path
) -> None:
    settings = overrides(SORT16, redis_url, "refused", "rollout.engine=vllm", "rollout.precision.weights=e2m1")
    async with process(*settings, log=tmp_path / "log") as started:
        assert await asyncio.wait_for(started.wait(), 90) == 2
    output = (tmp_path / "log").read_text()
    assert "weights=e4m3 granularity=channel activations=e4m3" in output
