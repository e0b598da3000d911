"""What a faulty or strange replica can do to a run: nothing but lose the work that it was given."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Callable

import grpc
import numpy as np
import pytest
from redis.asyncio import Redis

from ais.collector.replicas import fleet
from ais.contracts.events import Resumed, VersionPublished
from ais.contracts.v1 import rollout_pb2
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.runtime.process import UnavailableError
from tests.support.replicas.scripted_replicas import Behaviour, Stage, honest, sample

Spoil = Callable[[pb.Trajectory], object]


@pytest.fixture
async def stage(redis: Redis, run_name: str) -> Stage:
    stage = Stage(redis, run_name)
    await stage.events.publish(Resumed(0, "d0"))
    return stage


async def eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def aborting(status: grpc.StatusCode, words: str) -> Behaviour:
    async def behaviour(
        _: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        await context.abort(status, words)
        yield pb.Trajectory()

    return behaviour


def spoiling(spoil: Spoil) -> Behaviour:
    async def behaviour(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        async for trajectory in honest(request, context):
            spoil(trajectory)
            yield trajectory

    return behaviour


async def endless(request: rollout_pb2.GenerateRequest, _: grpc.aio.ServicerContext) -> AsyncIterator[pb.Trajectory]:
    while True:
        yield sample(request, 0, correct=True)


async def fresh_forever(
    request: rollout_pb2.GenerateRequest, _: grpc.aio.ServicerContext
) -> AsyncIterator[pb.Trajectory]:
    for index in range(1 << 20):
        yield sample(request, index, correct=True)


async def silent(_: rollout_pb2.GenerateRequest, __: grpc.aio.ServicerContext) -> AsyncIterator[pb.Trajectory]:
    await asyncio.sleep(600)
    yield pb.Trajectory()


def too_long(trajectory: pb.Trajectory) -> None:
    trajectory.token_ids = np.full(200, 4, dtype="<i4").tobytes()
    trajectory.behaviour_logprobs = np.full(200, -0.5, dtype="<f4").tobytes()
    trajectory.spans[0].end = 200


STRANGE: dict[str, tuple[Behaviour, str]] = {
    "samples without end": (endless, "trajectory.sample_index"),
    "more samples than asked": (fresh_forever, "trajectory.sample_index"),
    "an index beyond the samples": (
        spoiling(lambda t: setattr(t, "sample_index", t.sample_index + 7)),
        "trajectory.sample_index",
    ),
    "one index twice": (spoiling(lambda t: setattr(t, "sample_index", 0)), "trajectory.trajectory_id"),
    "another group": (spoiling(lambda t: setattr(t, "group_id", "another")), "trajectory.group_id"),
    "another name": (spoiling(lambda t: setattr(t, "trajectory_id", "another/0")), "trajectory.trajectory_id"),
    "more tokens than asked": (spoiling(too_long), "trajectory.token_ids"),
    "another temperature": (
        spoiling(lambda t: setattr(t.sampling, "temperature", 0.25)),
        "trajectory.sampling.temperature",
    ),
    "truncated sampling": (spoiling(lambda t: setattr(t.sampling, "top_p", 0.5)), "trajectory.sampling.top_p"),
    "another seed": (spoiling(lambda t: setattr(t.sampling, "seed", 5)), "trajectory.sampling.seed"),
    "other stop tokens": (
        spoiling(lambda t: t.sampling.stop_token_ids.append(3)),
        "trajectory.sampling.stop_token_ids",
    ),
    "another limit": (
        spoiling(lambda t: setattr(t.sampling, "max_new_tokens", 1 << 20)),
        "trajectory.sampling.max_new_tokens",
    ),
    "other weights": (spoiling(lambda t: setattr(t.spans[0], "digest", "random")), "trajectory.spans.digest"),
    "a message of 60 MB": (spoiling(lambda t: setattr(t, "engine", "x" * 60_000_000)), "message"),
    "poisonous log-probs": (
        spoiling(lambda t: setattr(t, "behaviour_logprobs", np.full(7, -3e38, dtype="<f4").tobytes())),
        "trajectory.behaviour_logprobs",
    ),
}


@pytest.mark.parametrize("fault", STRANGE)
async def test_an_answer_to_another_question_is_refused_with_its_field_and_sampled_elsewhere(
    stage: Stage, fault: str
) -> None:
    behaviour, field = STRANGE[fault]
    async with stage.replica("a", behaviour, digest="d0") as bad, stage.collector():
        await eventually(lambda: stage.counted("ais_collector_records_refused_total", field=field))
        async with stage.replica("b", honest, digest="d0"):
            groups = await stage.groups(4)
    assert bad.calls > 0
    for group in groups:
        assert {trajectory.trajectory_id for trajectory in group.trajectories} == {
            f"{group.group_id}/0",
            f"{group.group_id}/1",
        }
        assert all(span.digest == "d0" for trajectory in group.trajectories for span in trajectory.spans)
    assert stage.counted("ais_collector_records_refused_total", field="other") == 0


async def test_samples_without_end_take_no_memory(stage: Stage) -> None:
    async with stage.replica("a", endless, digest="d0") as bad, stage.collector():
        await eventually(lambda: bad.calls > 3)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seen = bad.calls
        await eventually(lambda: bad.calls > seen + 3)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"


async def test_a_replica_that_refuses_every_prompt_rests_and_the_run_goes_on(stage: Stage) -> None:
    """Such as one that was started with a shorter context."""
    short = aborting(grpc.StatusCode.INVALID_ARGUMENT, "prompt_token_ids: expected 1 to 3 tokens, got 7")
    stage.max_attempts = 1
    stage.stall_seconds = 5.0
    async with stage.replica("a", short, digest="d0") as bad, stage.collector():
        await eventually(lambda: bad.calls)
        async with stage.replica("b", honest, digest="d0"):
            assert [group.ordinal for group in await stage.groups(4)] == [0, 1, 2, 3]
    assert stage.counted("ais_collector_groups_total", outcome="refused") == bad.calls
    assert stage.counted("ais_collector_groups_total", outcome="failed") == 0


@pytest.mark.parametrize("status", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_a_full_or_slow_replica_is_no_failure_of_the_group(stage: Stage, status: grpc.StatusCode) -> None:
    full = aborting(status, "8 sequences are running or waiting")
    stage.max_attempts = 1
    async with stage.replica("a", full, digest="d0") as busy, stage.collector() as running:
        await eventually(lambda: busy.calls > 3)
        assert not running.done()
        async with stage.replica("b", honest, digest="d0"):
            assert len(await stage.groups(4)) == 4
    assert stage.counted("ais_collector_groups_total", outcome="busy") == busy.calls
    assert stage.counted("ais_collector_groups_total", outcome="failed") == 0


WRONG: dict[str, dict[str, object]] = {
    "another process at its address": {"replica_id": "somebody"},
    "another run": {"run_name": "another"},
    "another model": {"model_digest": "blake3:other"},
    "another tokenizer": {"tokenizer_digest": "blake3:other"},
    "another vocabulary than its record": {"vocab_size": 500_000},
    "another architecture than its record": {"model_type": "llama"},
    "no room for a token": {"max_model_len": 1},
}


@pytest.mark.parametrize("fault", WRONG)
async def test_a_replica_that_is_not_this_runs_gets_no_work(
    stage: Stage, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    (field,) = WRONG[fault]
    async with (
        stage.replica("a", honest, digest="d0", **WRONG[fault]) as wrong,
        stage.replica("b", honest, digest="d0"),
        stage.collector(),
    ):
        assert len(await stage.groups(4)) == 4
        await eventually(lambda: f"replica a gets no work: {field}" in caplog.text)
        assert wrong.calls == 0


async def test_a_run_with_nothing_but_wrong_replicas_ends_with_the_reason(stage: Stage) -> None:
    stage.stall_seconds = 0.3
    async with stage.replica("a", honest, run_name="another"), stage.collector() as running:
        with pytest.raises(UnavailableError, match="can ever serve.*a is none of this run's: run_name"):
            await asyncio.wait_for(running, 20)


async def test_a_replica_gets_no_work_before_it_has_said_what_it_is(stage: Stage) -> None:
    stage.stall_seconds = 0.3
    async with stage.replica("a", honest, digest="d0") as replica:
        replica.described = asyncio.Event()
        async with stage.collector():
            await eventually(lambda: "a has not answered yet what it is" in (stage.not_ready() or ""))
            assert replica.calls == 0
            replica.described.set()
            assert len(await stage.groups(4)) == 4


async def test_a_replica_with_other_weights_under_the_right_number_gets_no_work(stage: Stage) -> None:
    stage.stall_seconds = 0.3
    async with stage.replica("a", honest, digest="random") as wrong, stage.collector():
        await eventually(lambda: "serves other weights as version 0" in (stage.not_ready() or ""))
        async with stage.replica("b", honest, digest="d0"):
            assert len(await stage.groups(4)) == 4
        assert wrong.calls == 0


async def test_a_group_sampled_by_a_version_whose_news_is_late_waits_for_the_news(stage: Stage) -> None:
    def newer(trajectory: pb.Trajectory) -> None:
        trajectory.spans[0].version, trajectory.spans[0].digest = 1, "d1"

    async with stage.replica("a", spoiling(newer), digest="d0") as ahead, stage.collector():
        await eventually(lambda: ahead.calls)
        assert await stage.queue.read(4, block_seconds=0.3) == []
        await stage.events.publish(VersionPublished(1, "d1"))
        groups = await stage.groups(4)
    assert all(t.spans[0].digest == "d1" for group in groups for t in group.trajectories)
    assert stage.counted("ais_collector_groups_total", outcome="failed") == 0


async def test_calls_end_when_a_replicas_record_expires_and_it_does_not_answer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "DESCRIBE_SECONDS", 0.3)
    stage.deadline_seconds = 600
    async with stage.replica("a", silent, digest="d0") as hung, stage.collector():
        await eventually(lambda: hung.calls == 4)
        hung.described = asyncio.Event()  # its loop stands still
        await stage.redis.delete(stage.keys.replica("a"))
        async with stage.replica("b", honest, digest="d0"):
            assert len(await stage.groups(4)) == 4
    assert stage.counted("ais_collector_call_failures_total", reason="unavailable") == 4


async def test_calls_go_on_when_a_replicas_record_is_gone_and_it_answers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves and finishes its calls, or only Redis lost its record."""
    monkeypatch.setattr(fleet, "DESCRIBE_SECONDS", 0.3)
    monkeypatch.setattr(fleet, "EXPIRY_SECONDS", 0.05)
    finish = asyncio.Event()

    async def finishing(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        await finish.wait()
        async for trajectory in honest(request, context):
            yield trajectory

    async with stage.replica("a", finishing, digest="d0") as leaving, stage.collector():
        await eventually(lambda: leaving.calls == 4)
        await stage.redis.delete(stage.keys.replica("a"))
        assert await stage.queue.read(4, block_seconds=1.0) == []
        finish.set()
        assert {group.attempt for group in await stage.groups(4)} == {1}


async def test_a_replica_that_comes_back_at_another_address_is_called_there(stage: Stage) -> None:
    async with stage.replica("a", silent, digest="d0") as old, stage.collector():
        await eventually(lambda: old.calls)
        async with stage.replica("a", honest, digest="d0"):
            assert len(await stage.groups(4)) == 4


async def test_stray_records_and_events_beside_good_ones_change_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage.replica("a", honest, digest="d0"), stage.collector() as running:
        await stage.groups(4)
        record = json.loads(await stage.redis.get(stage.keys.replica("a")))
        for name, changed in ((b"zero", {"slots": 0}), (b"port", {"grpc_address": "127.0.0.1:99999"}), (b"\xff", {})):
            await stage.redis.sadd(stage.keys.replicas, name)
            await stage.redis.set(stage.keys.replica("").encode() + name, json.dumps(record | changed))
        for fields in (
            {"kind": "resumed", "version": "0", "digest": ""},
            {"kind": "version", "version": str(10**12), "incarnation": "0", "digest": "x"},
            {"kind": "finished", "version": "3", "incarnation": "0"},
            {"kind": "finished", "version": "3", "incarnation": "7"},
            {"kind": "resumed", "version": "0", "digest": "d0", "incarnation": "text"},
            {b"\xff": b"\xfe\x00"},
        ):
            await stage.redis.xadd(stage.keys.events, fields)
        await stage.register("a", int(record["grpc_address"].rpartition(":")[2]), 1, digest="d1")
        await stage.events.publish(VersionPublished(1, "d1"))
        assert [group.ordinal for group in await stage.groups(4)] == [4, 5, 6, 7]
        assert not running.done()
    assert len([line for line in caplog.records if "is skipped" in line.getMessage()]) <= 8


@pytest.mark.parametrize("lose", ["trim", "delete", "evict"])
async def test_groups_that_vanish_from_the_queue_are_sampled_again_while_the_run_goes_on(
    stage: Stage, lose: str
) -> None:
    stage.stall_seconds = 0.3
    async with stage.replica("a", honest, digest="d0"), stage.collector():
        await eventually(lambda: stage.counted("ais_collector_groups_total", outcome="published") == 4)
        entries = await stage.redis.xrange(stage.keys.groups)
        if lose == "trim":
            await stage.redis.xtrim(stage.keys.groups, maxlen=2, approximate=False)
        elif lose == "delete":
            await stage.redis.xdel(stage.keys.groups, entries[1][0], entries[3][0])
        else:
            await stage.redis.delete(stage.keys.groups)
            await stage.queue.prepare()
        assert [group.ordinal for group in await stage.groups(4)] == [0, 1, 2, 3]


async def test_groups_that_vanished_while_no_collector_ran_are_sampled_again(stage: Stage) -> None:
    async with stage.replica("a", honest, digest="d0"):
        async with stage.collector():
            await eventually(lambda: stage.counted("ais_collector_groups_total", outcome="published") == 4)
        await stage.redis.xtrim(stage.keys.groups, maxlen=0, approximate=False)
        async with stage.collector():
            assert [group.ordinal for group in await stage.groups(4)] == [0, 1, 2, 3]


async def test_a_trainer_that_trains_nothing_is_told_of_and_nothing_is_sampled_twice(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.stall_seconds = 0.2
    async with stage.replica("a", honest, digest="d0") as replica, stage.collector() as running:
        await eventually(lambda: "the queue holds 4 groups, and the trainer, at version 0" in caplog.text)
        assert "trains none of them" in (stage.not_ready() or "")
        assert replica.calls == 4
        assert not running.done()
        await stage.events.publish(VersionPublished(1, "d1"))
        await stage.register(
            "a", int((await stage.registry.replicas())[0].grpc_address.rpartition(":")[2]), 1, digest="d1"
        )
        await eventually(lambda: replica.calls == 8)
        await eventually(lambda: stage.not_ready() is None or "queue holds 4 groups" in (stage.not_ready() or ""))
