"""The generation API over a real gRPC connection to a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from ais.contracts.handing_back import is_handed_back
from ais.contracts.model_identity import ModelIdentity
from ais.contracts.sampling import Precision, SamplingParameters
from ais.contracts.trajectory import TrajectoryBounds, decode_trajectory
from ais.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.rollout.engines.torch_engine.engine import TorchEngine
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import SERVICE_NAME, GenerationServer, ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from ais.runtime.process import UnavailableError
from tests.support.tiny_models import VOCABULARY, Observer, until

SLOTS, WAITING = 4, 8
IDENTITY = ReplicaIdentity("replica-7", "run-3", ModelIdentity("blake3:model", "blake3:tokenizer"))


@dataclass
class Replica:
    """A served engine and a connection to it."""

    engine: TorchEngine
    observer: Observer
    registry: CollectorRegistry
    service: GenerationService
    server: GenerationServer
    channel: grpc.aio.Channel

    @property
    def stub(self) -> rollout_pb2_grpc.RolloutStub:
        return rollout_pb2_grpc.RolloutStub(self.channel)

    async def idle(self) -> None:
        """Returns when nothing runs and nothing waits."""

        def idle() -> bool:
            load = self.engine.load()
            return load.running_sequences + load.waiting_sequences == 0

        await until(idle)


@pytest.fixture
async def replica(open_engine: Callable) -> AsyncIterator[Replica]:
    observer = Observer()
    engine = await open_engine(
        slots=SLOTS, max_waiting_sequences=WAITING, observer=observer, precision=Precision(kv_cache="e4m3")
    )
    registry = CollectorRegistry()
    service = GenerationService(engine, IDENTITY, RolloutMetrics(registry))
    async with (
        serve_generation(service, "127.0.0.1", 0, ServerLimits()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Replica(engine, observer, registry, service, server, channel)


def message(
    samples: int = 2, new_tokens: int = 8, prompt: tuple[int, ...] = (1, 2, 3), **sampling: object
) -> rollout_pb2.GenerateRequest:
    parameters = SamplingParameters(max_new_tokens=new_tokens).to_proto()
    for name, value in sampling.items():
        setattr(parameters, name, value)
    return rollout_pb2.GenerateRequest(
        group_id="group-1",
        prompt_token_ids=np.array(prompt, dtype="<i4").tobytes(),
        samples=samples,
        sampling=parameters,
    )


def named(group_id: str) -> rollout_pb2.GenerateRequest:
    request = message()
    request.group_id = group_id
    return request


async def test_a_group_comes_back_as_trajectories_that_describe_themselves(replica: Replica) -> None:
    bounds = TrajectoryBounds(vocab_size=VOCABULARY, newest_version=0)
    received = [decode_trajectory(m, bounds) async for m in replica.stub.Generate(message(samples=6), timeout=20)]
    assert sorted(t.trajectory_id for t in received) == [f"group-1/{index}" for index in range(6)]
    for trajectory in received:
        assert len(trajectory.token_ids) == 8
        assert trajectory.precision == Precision(kv_cache="e4m3")
        assert (trajectory.replica_id, trajectory.engine) == ("replica-7", "torch")
        assert 0 < trajectory.first_token_seconds <= trajectory.total_seconds
    assert replica.registry.get_sample_value("ais_rollout_finished_sequences_total", {"reason": "length"}) == 6


async def test_a_response_names_the_digest_of_each_version_that_sampled_it(
    replica: Replica, model_directory: Callable[[str, int], Path]
) -> None:
    first = replica.engine.describe().digest
    call = replica.stub.Generate(message(samples=4, new_tokens=400), timeout=60)
    await replica.observer.wait_for_steps(5)
    await replica.engine.swap_weights(1, "blake3:one", [model_directory("qwen3", 1) / "model.safetensors"])
    replica.service.note_version()
    bounds = TrajectoryBounds(vocab_size=VOCABULARY, newest_version=1)
    for trajectory in [decode_trajectory(m, bounds) async for m in call]:
        assert [(span.version, span.digest) for span in trajectory.spans] == [(0, first), (1, "blake3:one")]


async def test_a_trajectory_is_sent_while_others_of_its_group_still_run(replica: Replica) -> None:
    call = replica.stub.Generate(message(samples=SLOTS + 1, new_tokens=300), timeout=60)
    await call.read()
    load = replica.engine.load()
    assert load.running_sequences + load.waiting_sequences == 1
    call.cancel()


async def test_a_streamed_response_comes_as_it_is_sampled_and_is_the_same_in_the_end(replica: Replica) -> None:
    bounds = TrajectoryBounds(vocab_size=VOCABULARY, newest_version=0)
    request = message(samples=2, new_tokens=12, seed=7)
    whole = {m.sample_index: decode_trajectory(m, bounds) async for m in replica.stub.Generate(request, timeout=20)}
    told: dict[int, list[int]] = {0: [], 1: []}
    logprobs: dict[int, list[float]] = {0: [], 1: []}
    messages = [progress async for progress in replica.stub.Stream(request, timeout=20)]
    for progress in messages:
        if progress.HasField("finished"):
            finished = decode_trajectory(progress.finished, bounds)
            assert finished.sample_index == progress.sample_index
            assert finished.token_ids.tolist() == whole[progress.sample_index].token_ids.tolist()
            begun = told[progress.sample_index]
            assert begun == finished.token_ids.tolist()[: len(begun)]
            assert logprobs[progress.sample_index] == finished.behaviour_logprobs.tolist()[: len(begun)]
        else:
            told[progress.sample_index] += np.frombuffer(progress.token_ids, dtype="<i4").tolist()
            logprobs[progress.sample_index] += np.frombuffer(progress.behaviour_logprobs, dtype="<f4").tolist()
    assert all(told.values())


async def test_a_streamed_call_that_is_cancelled_frees_its_slots(replica: Replica) -> None:
    call = replica.stub.Stream(message(samples=SLOTS, new_tokens=400), timeout=60)
    assert not (await call.read()).HasField("finished")
    call.cancel()
    await replica.idle()


async def test_a_bad_streamed_request_is_refused_with_its_field(replica: Replica) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="sampling.temperature") as refused:
        await replica.stub.Stream(message(temperature=-1.0), timeout=20).read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_cancelled_call_frees_its_slots(replica: Replica) -> None:
    call = replica.stub.Generate(message(samples=8, new_tokens=500), timeout=60)
    reading = asyncio.create_task(call.read())
    await replica.observer.wait_for_steps(3)
    assert replica.engine.load().running_sequences == SLOTS
    call.cancel()
    await asyncio.wait([reading])
    await replica.idle()
    assert replica.observer.steps < 400


async def test_a_call_past_its_deadline_frees_its_slots(replica: Replica) -> None:
    requests = [message(samples=SLOTS, new_tokens=500) for _ in range(3)]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.gather(*(anext(aiter(replica.stub.Generate(r, timeout=0.1))) for r in requests))
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await replica.idle()


async def test_a_full_queue_answers_resource_exhausted_and_when_to_come_back(replica: Replica) -> None:
    call = replica.stub.Generate(message(samples=SLOTS + WAITING, new_tokens=300), timeout=60)
    reading = asyncio.create_task(call.read())
    await replica.observer.wait_for_steps(1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(replica.stub.Generate(message(samples=1), timeout=20)))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert replica.registry.get_sample_value("ais_rollout_rejected_requests_total", {"field": "queue"}) == 1
    call.cancel()
    await asyncio.wait([reading])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (message(prompt=()), "prompt_token_ids"),
        (message(prompt=(1, VOCABULARY)), "prompt_token_ids"),
        (message(prompt=(1, -1)), "prompt_token_ids"),
        (message(samples=0), "samples"),
        (message(temperature=-1.0), "sampling.temperature"),
        (message(temperature=float("nan")), "sampling.temperature"),
        (message(top_p=0.0), "sampling.top_p"),
        (message(max_new_tokens=0), "sampling.max_new_tokens"),
        (rollout_pb2.GenerateRequest(), "group_id"),
        (named("g" * 513), "group_id"),
        (named("two\nlines"), "group_id"),
        (named("\x1b[2Jcleared"), "group_id"),
    ],
)
async def test_a_bad_request_is_refused_with_its_field_and_counted(
    request_: rollout_pb2.GenerateRequest, field: str, replica: Replica
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(replica.stub.Generate(request_, timeout=20)))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.value.details() or "").startswith(f"{field}: ")
    assert replica.registry.get_sample_value("ais_rollout_rejected_requests_total", {"field": field}) == 1


@pytest.mark.parametrize(
    "name", ["g" * 500_000, "\x1b[2J\n" * 50_000, "\u202e" * 50_000], ids=["long", "escapes", "bidi"]
)
async def test_a_refusal_repeats_little_of_what_was_sent_and_stays_on_one_line(name: str, replica: Replica) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(replica.stub.Generate(named(name), timeout=20)))
    reason = error.value.details() or ""
    assert reason.isprintable()
    assert len(reason) < 300


async def test_refusals_make_no_series_of_metrics_beyond_those_there_are_from_the_start() -> None:
    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry)

    def series() -> int:
        return sum(len(metric.samples) for metric in registry.collect())

    before = series()
    fields = ["sampling.stop_token_ids.7", "sampling.stop_token_ids.8.x", "sampling.new", "trajectories[3]", "", "\n"]
    for field in [*fields, *(f"field-{number}" for number in range(200)), "samples", "queue"]:
        metrics.count_refusal(field)
    assert series() == before
    assert registry.get_sample_value("ais_rollout_rejected_requests_total", {"field": "other"}) == 204
    assert registry.get_sample_value("ais_rollout_rejected_requests_total", {"field": "sampling.stop_token_ids"}) == 2


async def test_a_draining_replica_is_unavailable_and_not_healthy(replica: Replica) -> None:
    health = health_pb2_grpc.HealthStub(replica.channel)
    asked = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
    assert (await health.Check(asked, timeout=20)).status == health_pb2.HealthCheckResponse.SERVING
    await replica.engine.drain(deadline_seconds=1)
    await replica.server.refuse_new_calls()
    assert (await health.Check(asked, timeout=20)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(replica.stub.Generate(message(), timeout=20)))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert is_handed_back(error.value.trailing_metadata())


async def test_a_call_that_a_drain_cuts_short_is_handed_back_as_such(replica: Replica) -> None:
    call = replica.stub.Generate(message(samples=SLOTS + 1, new_tokens=500), timeout=60)
    reading = asyncio.create_task(call.read())
    await replica.observer.wait_for_steps(1)
    await replica.engine.drain(deadline_seconds=0.01)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await reading
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert is_handed_back(error.value.trailing_metadata())


async def test_a_call_of_a_broken_engine_is_not_handed_back(replica: Replica) -> None:
    call = replica.stub.Generate(message(samples=1, new_tokens=500), timeout=60)
    reading = asyncio.create_task(call.read())
    await replica.observer.wait_for_steps(1)
    await replica.engine.close()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await reading
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not is_handed_back(error.value.trailing_metadata())


async def test_describe_tells_what_is_served(replica: Replica) -> None:
    answer = await replica.stub.Describe(rollout_pb2.DescribeRequest(), timeout=20)
    assert (answer.replica_id, answer.engine, answer.model_type) == ("replica-7", "torch", "qwen3")
    assert (answer.vocab_size, answer.max_model_len, answer.slots) == (VOCABULARY, 512, SLOTS)
    assert answer.policy_version == 0
    assert answer.policy_digest.startswith("blake3:")
    assert Precision.from_proto(answer.precision) == Precision(kv_cache="e4m3")
    assert isinstance(answer.precision, pb.Precision)
    assert (answer.run_name, answer.model_digest, answer.tokenizer_digest) == (
        "run-3", "blake3:model", "blake3:tokenizer",
    )  # fmt: skip


async def test_reflection_lists_the_service(replica: Replica) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(replica.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = await anext(aiter(stub.ServerReflectionInfo(iter([asked]), timeout=20)))
    assert SERVICE_NAME in {service.name for service in answer.list_services_response.service}


async def test_a_port_that_is_taken_is_an_error_at_start(replica: Replica) -> None:
    service = GenerationService(replica.engine, IDENTITY, RolloutMetrics(CollectorRegistry()))
    with pytest.raises(UnavailableError, match=str(replica.server.port)):
        async with serve_generation(service, "127.0.0.1", replica.server.port, ServerLimits()):
            pass
