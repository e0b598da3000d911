"""The collector against a real Valkey server and real gRPC replicas whose behaviour the test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from services.collector.collector import Collector
from services.collector.metrics import CollectorMetrics
from services.collector.prompts import Split
from services.collector.settings import CollectorSettings, PromptSettings, TaskSettings
from services.collector.tasks import open_task
from services.collector.tokenizer import PolicyTokenizer
from services.collector.verifiers import open_verifier
from services.contracts.events import Finished, Resumed, TrainerEvents, VersionPublished
from services.contracts.keys import Keys
from services.contracts.queue import TrajectoryQueue
from services.contracts.registry import ReplicaRecord, ReplicaRegistry
from services.contracts.sampling import FinishReason, Precision, SamplingParameters
from services.contracts.trajectory import (
    PolicySpan,
    ScoredGroup,
    Trajectory,
    TrajectoryBounds,
    decode_group,
    encode_trajectory,
)
from services.contracts.v1 import rollout_pb2, rollout_pb2_grpc
from services.contracts.v1 import trajectory_pb2 as pb
from services.runtime.process import UnavailableError
from services.runtime.settings import RunSettings

ALPHABET = "_^$0123456789="
BOUNDS = TrajectoryBounds(vocab_size=len(ALPHABET))
Behaviour = Callable[[rollout_pb2.GenerateRequest, grpc.aio.ServicerContext], AsyncIterator[pb.Trajectory]]


def tokenizer() -> PolicyTokenizer:
    characters = Tokenizer(models.WordLevel({c: i for i, c in enumerate(ALPHABET)}, unk_token="_"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    characters.add_special_tokens(["_", "^", "$"])
    return PolicyTokenizer(characters, None, PromptSettings())


def sample(request: rollout_pb2.GenerateRequest, index: int, correct: bool) -> pb.Trajectory:
    """The prompt's digits, sorted if `correct`, ended by the stop token."""
    prompt = np.frombuffer(request.prompt_token_ids, dtype="<i4")[:-1]
    tokens = np.append(np.sort(prompt) if correct else prompt[::-1], ALPHABET.index("$")).astype(np.int32)
    return encode_trajectory(
        Trajectory(
            trajectory_id=f"{request.group_id}/{index}",
            group_id=request.group_id,
            sample_index=index,
            token_ids=tokens,
            behaviour_logprobs=np.full(len(tokens), -0.5, dtype=np.float32),
            spans=(PolicySpan(0, 0, len(tokens)),),
            finish_reason=FinishReason.STOP,
            sampling=SamplingParameters.from_proto(request.sampling),
            precision=Precision(),
            engine="scripted",
            engine_version="0",
            replica_id="scripted",
            first_token_seconds=0.0,
            total_seconds=0.0,
        )
    )


async def honest(request: rollout_pb2.GenerateRequest, _: grpc.aio.ServicerContext) -> AsyncIterator[pb.Trajectory]:
    """Answers in reverse order, the first sample right and the others wrong."""
    for index in reversed(range(request.samples)):
        yield sample(request, index, correct=index == 0)


class Servicer(rollout_pb2_grpc.RolloutServicer):
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.calls = 0

    async def Generate(  # noqa: N802
        self, request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        self.calls += 1
        async for trajectory in self.behaviour(request, context):
            yield trajectory


class Stage:
    """One run: its queue, registry and events, and whatever replicas the test puts on it."""

    def __init__(self, redis: Redis, run_name: str, staleness: int = 0) -> None:
        keys = Keys(run_name)
        self.run = RunSettings(name=run_name, steps=3, groups_per_batch=4, samples_per_group=2, max_staleness=staleness)
        self.redis = redis
        self.queue = TrajectoryQueue(redis, keys)
        self.registry = ReplicaRegistry(redis, keys)
        self.events = TrainerEvents(redis, keys)
        self.keys = keys
        self.metrics = CollectorRegistry()
        self.max_attempts = 50

    @asynccontextmanager
    async def replica(self, name: str, behaviour: Behaviour, version: int = 0) -> AsyncIterator[Servicer]:
        server = grpc.aio.server()
        servicer = Servicer(behaviour)
        rollout_pb2_grpc.add_RolloutServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await self.register(name, port, version)
        try:
            yield servicer
        finally:
            await server.stop(None)

    async def register(self, name: str, port: int, version: int) -> None:
        record = ReplicaRecord(
            replica_id=name,
            grpc_address=f"127.0.0.1:{port}",
            http_url="http://127.0.0.1:9",
            engine="scripted",
            precision=Precision(),
            model_type="scripted",
            vocab_size=len(ALPHABET),
            parameter_count=0,
            policy_version=version,
            policy_digest="",
            ready=True,
            slots=64,
            running_sequences=0,
            waiting_sequences=0,
        )
        await self.redis.sadd(self.keys.replicas, name)
        await self.redis.set(self.keys.replica(name), record.model_dump_json())  # outlives the test without a heartbeat

    @asynccontextmanager
    async def collector(self) -> AsyncIterator[asyncio.Task[None]]:
        await self.queue.prepare()
        self.metrics = CollectorRegistry()
        settings = CollectorSettings(
            task=TaskSettings(digits=6), group_deadline_seconds=5, max_attempts=self.max_attempts
        )
        collector = Collector(
            self.run,
            settings,
            open_task(settings.task, 0, Split.TRAIN),
            open_verifier(settings.task),
            tokenizer(),
            self.queue,
            self.registry,
            TrainerEvents(self.redis, self.keys),
            CollectorMetrics(self.metrics),
        )
        stop = asyncio.Event()
        task = asyncio.create_task(collector.run(stop))
        try:
            yield task
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=True)

    async def groups(self, count: int) -> list[ScoredGroup]:
        """Waits for `count` groups and returns them by ordinal."""
        groups: list[ScoredGroup] = []
        while len(groups) < count:
            groups += [decode_group(e.payload, BOUNDS) for e in await self.queue.read(count, block_seconds=5)]
        return sorted(groups, key=lambda group: group.ordinal)

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(name, labels) or 0.0


@pytest.fixture
def stage(redis: Redis, run_name: str) -> Stage:
    return Stage(redis, run_name)


async def test_admitted_groups_arrive_scored_with_samples_in_order(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", honest), stage.collector():
        groups = await stage.groups(4)
    assert [group.ordinal for group in groups] == [0, 1, 2, 3]
    for group in groups:
        assert [trajectory.sample_index for trajectory in group.trajectories] == [0, 1]
        assert group.rewards == (1.0, 0.0)
        assert group.task == "sort6"


async def test_a_new_version_opens_the_next_batch_and_the_end_stops_the_collector(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", honest), stage.replica("b", honest, version=1), stage.collector() as running:
        await stage.groups(4)
        assert await stage.queue.read(1, block_seconds=0.2) == []
        await stage.events.publish(VersionPublished(1, ""))
        assert [group.ordinal for group in await stage.groups(4)] == [4, 5, 6, 7]
        await stage.events.publish(Finished(3))
        await asyncio.wait_for(running, 5)


async def test_a_trainer_that_resumed_at_an_older_version_gets_what_is_missing_again(stage: Stage) -> None:
    await stage.events.publish(Resumed(0, ""))
    async with stage.replica("a", honest), stage.replica("b", honest, version=1) as ahead, stage.collector():
        await stage.groups(4)
        await stage.events.publish(VersionPublished(1, ""))
        assert [group.ordinal for group in await stage.groups(4)] == [4, 5, 6, 7]
        calls = ahead.calls
        lost = await stage.queue.read_pending(3)  # 0, 1 and 2, in the order in which they were read
        await stage.queue.acknowledge({entry.entry_id: entry.ordinal for entry in lost})
        await stage.events.publish(Resumed(0, ""))
        again = await stage.groups(3)
        assert {group.ordinal for group in again} == {entry.ordinal for entry in lost}
        assert ahead.calls == calls, "its version does not exist any more"
        await stage.events.publish(VersionPublished(1, ""))
        assert await stage.queue.read(1, block_seconds=0.2) == [], "4 to 7 are there still"


async def test_a_collector_that_comes_after_a_finished_run_was_resumed_goes_on(stage: Stage) -> None:
    for event in (Resumed(0, ""), VersionPublished(3, ""), Finished(3), Resumed(2, "")):
        await stage.events.publish(event)
    async with stage.replica("a", honest, version=2), stage.collector():
        assert [group.ordinal for group in await stage.groups(4)] == [8, 9, 10, 11]


async def test_a_batch_waits_for_a_replica_with_the_new_version(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(1, ""))
    async with stage.replica("old", honest, version=0) as old, stage.collector():
        assert await stage.queue.read(1, block_seconds=0.3) == []
        async with stage.replica("new", honest, version=1):
            groups = await stage.groups(4)
    assert [group.ordinal for group in groups] == [4, 5, 6, 7]
    assert old.calls == 0


async def test_a_group_whose_replica_dies_in_mid_stream_is_sampled_by_another(stage: Stage) -> None:
    async def dying(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        yield sample(request, 0, correct=True)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", dying) as bad, stage.replica("b", honest), stage.collector():
        groups = await stage.groups(4)
    assert bad.calls > 0
    assert [group.ordinal for group in groups] == [0, 1, 2, 3]
    assert max(group.attempt for group in groups) == 2
    assert await stage.queue.depth() == 4
    assert stage.counted("ais_collector_call_failures_total", reason="unavailable") == bad.calls


async def test_a_malformed_trajectory_is_refused_counted_by_field_and_sampled_again(stage: Stage) -> None:
    async def lying(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        async for trajectory in honest(request, context):
            trajectory.behaviour_logprobs = np.full(7, 0.5, dtype="<f4").tobytes()
            yield trajectory

    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", lying) as bad, stage.replica("b", honest), stage.collector():
        groups = await stage.groups(4)
    assert len(groups) == 4
    assert stage.counted("ais_collector_records_refused_total", field="trajectory.behaviour_logprobs") == bad.calls > 0


async def test_a_replica_that_sends_too_few_samples_does_not_make_a_group(stage: Stage) -> None:
    async def short(request: rollout_pb2.GenerateRequest, _: grpc.aio.ServicerContext) -> AsyncIterator[pb.Trajectory]:
        yield sample(request, 0, correct=True)

    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", short), stage.replica("b", honest), stage.collector():
        groups = await stage.groups(4)
    assert all(len(group.trajectories) == 2 for group in groups)
    assert stage.counted("ais_collector_records_refused_total", field="samples") > 0


async def test_a_prompt_refused_for_good_ends_the_collector_with_its_name(stage: Stage) -> None:
    async def refusing(
        _: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "prompt_token_ids: longer than max_model_len")
        yield pb.Trajectory()

    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", refusing), stage.collector() as running:
        with pytest.raises(UnavailableError, match="sort6-.*longer than max_model_len"):
            await asyncio.wait_for(running, 5)


async def test_a_restarted_collector_leaves_published_groups_alone(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", honest) as replica:
        async with stage.collector():
            await stage.groups(4)
        calls = replica.calls
        async with stage.collector():
            assert await stage.queue.read(1, block_seconds=0.3) == []
        assert replica.calls == calls


async def test_a_group_refused_by_the_trainer_is_generated_again(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", honest), stage.collector():
        entries = []
        while len(entries) < 4:
            entries += await stage.queue.read(4, block_seconds=5)
        refused = entries[2]
        await stage.queue.discard(refused, "made up by the test")
        (again,) = await stage.groups(1)
    assert again.ordinal == refused.ordinal


async def test_without_a_replica_nothing_is_lost_and_work_starts_when_one_comes(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.collector() as running:
        assert await stage.queue.read(1, block_seconds=0.2) == []
        assert not running.done()
        async with stage.replica("late", honest):
            assert len(await stage.groups(4)) == 4


async def test_a_run_that_no_replica_can_serve_says_what_it_waits_for(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.collector.collector.STALL_SECONDS", 0.05)
    await stage.events.publish(VersionPublished(1, ""))
    async with stage.replica("old", honest, version=0), stage.collector():
        async with asyncio.timeout(10):
            while "no replica can take the next group" not in caplog.text:
                await asyncio.sleep(0.01)
    warning = next(record for record in caplog.records if "no replica can take" in record.message)
    assert warning.__dict__["needs_version"] == 1
    assert warning.__dict__["ready_replicas_serve"] == {"old": 0}


async def test_a_collector_that_starts_after_the_end_ends_at_once(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(0, ""))
    await stage.events.publish(Finished(3))
    async with stage.collector() as running:
        await asyncio.wait_for(running, 10)


async def test_a_group_that_comes_to_nothing_too_often_ends_the_collector(stage: Stage) -> None:
    async def useless(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        await context.abort(grpc.StatusCode.INTERNAL, "out of memory")
        yield pb.Trajectory()

    stage.max_attempts = 2
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", useless), stage.collector() as running:
        with pytest.raises(UnavailableError, match="come to nothing 2 times"):
            await asyncio.wait_for(running, 20)
