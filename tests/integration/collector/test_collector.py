"""The collector against a real Valkey server and real gRPC replicas whose behaviour the test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from redis.asyncio import Redis

from ais.collector.environments.protocol import PolicyTurn, Prompt
from ais.collector.judging.hosts import Opening, Place, Told
from ais.collector.judging.judge import UnjudgedError
from ais.collector.settings.environments import EnvironmentSettings
from ais.contracts.events import Finished, Resumed, VersionPublished
from ais.contracts.handing_back import HANDED_BACK
from ais.contracts.v1 import rollout_pb2
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.runtime.process import UnavailableError
from tests.support.replicas.scripted_replicas import Servicer, Stage, honest, sample


@pytest.fixture
def stage(redis: Redis, run_name: str) -> Stage:
    return Stage(redis, run_name)


async def called(replica: Servicer) -> None:
    """Returns when the replica, alone so far, has been given work."""
    async with asyncio.timeout(20):
        while not replica.calls:
            await asyncio.sleep(0.01)


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
        next_trainer = stage.trainer(incarnation=1)
        await next_trainer.publish(Resumed(0, ""))
        again = await stage.groups(3)
        assert {group.ordinal for group in again} == {entry.ordinal for entry in lost}
        assert ahead.calls == calls, "its version does not exist any more"
        await next_trainer.publish(VersionPublished(1, ""))
        assert await stage.queue.read(1, block_seconds=0.2) == [], "4 to 7 are there still"


async def test_a_collector_that_comes_after_a_finished_run_was_resumed_goes_on(stage: Stage) -> None:
    for event in (Resumed(0, ""), VersionPublished(3, ""), Finished(3)):
        await stage.events.publish(event)
    await stage.trainer(incarnation=1).publish(Resumed(2, ""))
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
    async with stage.replica("a", dying) as bad, stage.collector():
        await called(bad)
        async with stage.replica("b", honest):
            groups = await stage.groups(4)
    assert bad.calls > 0
    assert [group.ordinal for group in groups] == [0, 1, 2, 3]
    assert max(group.attempt for group in groups) >= 2
    assert await stage.queue.depth() == 4
    assert stage.counted("ais_collector_call_failures_total", reason="unavailable") == bad.calls


async def test_a_replica_that_hands_a_group_back_has_not_failed_and_gets_no_more(stage: Stage) -> None:
    async def leaving(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        yield sample(request, 0, correct=True)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "draining", (HANDED_BACK,))

    stage.max_attempts = 1
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", leaving, slots=1) as left, stage.collector():
        await called(left)
        async with stage.replica("b", honest, slots=1):
            groups = await stage.groups(4)
        assert left.calls == 1
        assert [group.ordinal for group in groups] == [0, 1, 2, 3]
        assert sorted(group.attempt for group in groups) == [1, 1, 1, 2]
        assert stage.counted("ais_collector_groups_total", outcome="handed_back") == 1
        assert stage.counted("ais_collector_groups_total", outcome="failed") == 0


async def test_a_replica_gets_the_next_group_while_the_last_still_waits_for_its_longest_response(stage: Stage) -> None:
    called, called_again = asyncio.Event(), asyncio.Event()

    async def long_tailed(
        request: rollout_pb2.GenerateRequest, _: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        if called.is_set():
            called_again.set()
        called.set()
        yield sample(request, 0, correct=True)
        await called_again.wait()
        yield sample(request, 1, correct=True)

    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", long_tailed, slots=2), stage.collector():
        assert {group.attempt for group in await stage.groups(4)} == {1}


async def test_a_malformed_trajectory_is_refused_counted_by_field_and_sampled_again(stage: Stage) -> None:
    async def lying(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        async for trajectory in honest(request, context):
            trajectory.behaviour_logprobs = np.full(7, 0.5, dtype="<f4").tobytes()
            yield trajectory

    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", lying) as bad, stage.collector():
        await called(bad)
        async with stage.replica("b", honest):
            groups = await stage.groups(4)
    assert len(groups) == 4
    assert stage.counted("ais_collector_records_refused_total", field="trajectory.behaviour_logprobs") == bad.calls > 0


async def test_a_replica_that_sends_too_few_samples_does_not_make_a_group(stage: Stage) -> None:
    async def short(request: rollout_pb2.GenerateRequest, _: grpc.aio.ServicerContext) -> AsyncIterator[pb.Trajectory]:
        yield sample(request, 0, correct=True)

    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", short) as bad, stage.collector():
        await called(bad)
        async with stage.replica("b", honest):
            groups = await stage.groups(4)
    assert all(len(group.trajectories) == 2 for group in groups)
    assert stage.counted("ais_collector_records_refused_total", field="samples") > 0


async def test_a_prompt_refused_for_good_ends_the_collector_with_its_name(stage: Stage) -> None:
    async def refusing(
        _: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "prompt_token_ids: longer than max_model_len")
        yield pb.Trajectory()

    stage.stall_seconds = 0.2
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
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.stall_seconds = 0.2
    await stage.events.publish(VersionPublished(1, ""))
    async with stage.replica("old", honest, version=0), stage.collector():
        async with asyncio.timeout(10):
            while "no replica can take the next group" not in caplog.text:
                await asyncio.sleep(0.01)
        assert "old serves version 0, needed is 1" in caplog.text
        assert "no replica can take the next group" in (stage.not_ready() or "")
        assert stage.counted("ais_collector_idle_seconds") > 0


async def test_a_collector_that_starts_after_the_end_ends_at_once(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(0, ""))
    await stage.events.publish(Finished(3))
    async with stage.collector() as running:
        await asyncio.wait_for(running, 10)


async def test_episodes_that_do_not_begin_take_no_room_of_a_replica_and_end_the_collector(stage: Stage) -> None:
    class Never:
        """An environment that begins nothing."""

        settings = EnvironmentSettings(name="guess_number")

        async def begin(self, prompt: Prompt) -> Opening:
            raise UnjudgedError("nothing begins")

        async def answer(self, place: Place, prompt: Prompt, turn: PolicyTurn) -> Told:
            raise AssertionError("it never began")

    stage.hosts = {"sort6": Never()}
    stage.max_attempts = 8
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", honest, slots=2), stage.collector() as running:
        with pytest.raises(UnavailableError, match="nothing begins"):
            await asyncio.wait_for(running, 20)


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
