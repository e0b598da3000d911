"""`ais trace` on a run whose queue is a real server's: what became of a group that is not trained."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ais.cli import app
from ais.contracts.events import Resumed, TrainerEvents
from ais.contracts.journey.times import Journey
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.trajectory import ScoredGroup, encode_group
from ais.launcher.directory.run_directory import RunDirectory
from ais.tracing.command import trace_of
from ais.tracing.search import Trace
from tests.support.trainer_groups import make_group


def named(group_id: str) -> ScoredGroup:
    """The group of ordinal 3."""
    group = make_group(3)
    trajectories = tuple(replace(one, group_id=group_id) for one in group.trajectories)
    return replace(group, group_id=group_id, trajectories=trajectories, journey=Journey(1.0, 2.0, 3.0, 4.0))


@pytest.fixture
def directory(tmp_path: Path, run_name: str, redis_url: str) -> RunDirectory:
    directory = RunDirectory(tmp_path / run_name)
    directory.path.mkdir()
    directory.config.write_text(f'[redis]\nurl = "{redis_url}"\n[run]\ngroups_per_batch = 2\nsteps = 9\n')
    return directory


@pytest.fixture
async def queue(redis: Redis, keys: Keys) -> TrajectoryQueue:
    """With the group of ordinal 3, and a trainer at version 0."""
    queue = TrajectoryQueue(redis, keys)
    await queue.prepare()
    await TrainerEvents(redis, keys).publish(Resumed(0, "blake3:0"))
    await queue.publish(3, encode_group(named(f"{keys.run}-3-1")))
    return queue


async def traced(directory: RunDirectory, group: str) -> Trace:
    return await asyncio.to_thread(trace_of, directory, group)


async def test_a_group_in_the_queue_says_what_its_batch_waits_for(
    directory: RunDirectory, queue: TrajectoryQueue
) -> None:
    trace = await traced(directory, "3")
    assert (trace.state, trace.group_id) == ("queued", f"{directory.name}-3-1")
    assert "waits for 1 of 2 groups (ordinals 2)" in trace.summary
    assert (trace.stations[0].place, trace.stations[-1].place) == ("drawn", "queued")


async def test_an_entry_that_is_no_group_is_in_the_queue_all_the_same(
    directory: RunDirectory, queue: TrajectoryQueue
) -> None:
    await queue.publish(2, b"\xff\xff")
    trace = await traced(directory, "2")
    assert (trace.state, [one.place for one in trace.stations]) == ("queued", ["queued"])
    assert "its batch is complete" in trace.summary


async def test_a_group_that_the_trainer_refused_has_the_reason(directory: RunDirectory, queue: TrajectoryQueue) -> None:
    (entry,) = await queue.read(1, 1.0)
    await queue.discard(entry, "rewards: too many")
    trace = await traced(directory, f"{directory.name}-3-1")
    assert (trace.state, "rewards: too many" in trace.summary) == ("refused", True)
    again = await traced(directory, "3")
    assert again.state == "open"
    assert f"{directory.name}-3-1 was refused before: rewards: too many" in again.summary


async def test_a_group_that_is_sampled_now_and_one_that_waits_for_a_version_are_told_apart(
    directory: RunDirectory, queue: TrajectoryQueue
) -> None:
    assert (await traced(directory, "2")).state == "open"
    waiting = await traced(directory, "4")
    assert (waiting.state, "once the trainer has version 1, which has 0" in waiting.summary) == ("waiting", True)


async def test_the_command_ends_with_the_code_of_what_is_wrong(
    directory: RunDirectory, queue: TrajectoryQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    def ais_trace(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            app(["trace", str(directory.path), *arguments])
        return int(ended.value.code or 0)

    assert await asyncio.to_thread(ais_trace, "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "queued"
    assert await asyncio.to_thread(ais_trace, "nonsense") == 2
    assert capsys.readouterr().err.startswith("ais: 'nonsense' is not the id of a group")
    assert await asyncio.to_thread(ais_trace, "18") == 3
    assert "the ordinals 0 to 17" in capsys.readouterr().err
