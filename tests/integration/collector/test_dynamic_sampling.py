"""Groups whose rewards are all equal are drawn again: by a real collector, killed and started again at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from redis.asyncio import Redis

from ais.collector.prompts.prompts import Split
from ais.collector.prompts.reserve import position_of
from ais.collector.settings import DynamicSamplingSettings, TaskSettings
from ais.collector.tasks.task import open_task
from ais.contracts.events import VersionPublished
from ais.contracts.trajectory import ScoredGroup
from ais.contracts.v1 import rollout_pb2
from ais.contracts.v1 import trajectory_pb2 as pb
from tests.support.replicas.scripted_replicas import ALPHABET, Stage, honest, sample

REDRAWS = 2
ORDINALS = 12


def teaches(digits: str) -> bool:
    """Whether the scripted policy solves a problem now and then, and not always."""
    return int(digits[0]) < 4


async def uneven(request: rollout_pb2.GenerateRequest, _: grpc.aio.ServicerContext) -> AsyncIterator[pb.Trajectory]:
    prompt = np.frombuffer(request.prompt_token_ids, dtype="<i4")
    learns = teaches("".join(ALPHABET[token] for token in prompt[:-1]))
    for index in range(request.samples):
        yield sample(request, index, correct=learns and index == 0)


def expected() -> dict[int, tuple[str, int]]:
    """Prompt and redraw of each ordinal, from the definition."""
    task = open_task(TaskSettings(digits=6), 0, Split.TRAIN)
    found = {}
    for ordinal in range(ORDINALS):
        redraw = 0
        while redraw < REDRAWS and not teaches(task.prompt(position_of(ordinal, redraw)).text):
            redraw += 1
        found[ordinal] = task.prompt(position_of(ordinal, redraw)).prompt_id, redraw
    return found


def content(groups: list[ScoredGroup]) -> dict[int, tuple[str, int]]:
    return {group.ordinal: (group.prompt_id, group.redraw) for group in groups}


@pytest.fixture
def stage(redis: Redis, run_name: str) -> Stage:
    stage = Stage(redis, run_name, staleness=3)  # all of the run may be started at once
    stage.dynamic_sampling = DynamicSamplingSettings(redraws=REDRAWS)
    return stage


async def test_groups_that_teach_nothing_give_their_places_to_prompts_of_the_reserve(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", uneven) as replica, stage.collector():
        groups = await stage.groups(ORDINALS)
        thrown_away = sum(group.redraw for group in groups)
        assert content(groups) == expected()
        assert thrown_away > 0
        assert replica.calls == ORDINALS + thrown_away
        assert stage.counted("ais_collector_redrawn_groups_total") == thrown_away
        assert stage.counted("ais_collector_redrawn_sequences_total") == 2 * thrown_away
        assert stage.counted("ais_collector_redrawn_tokens_total") == 14 * thrown_away


@pytest.mark.parametrize("kills", [(0, 0), (1, 5), (3, 3, 3), (11,), tuple(range(8))])
async def test_what_a_run_draws_is_the_same_after_any_kill(stage: Stage, kills: tuple[int, ...]) -> None:
    """`kills`: groups that are called for, by each collector, when it is killed; the last one sees the run through."""
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", uneven, slots=2) as replica:
        for count in kills:
            before = replica.calls
            async with stage.collector() as running, asyncio.timeout(20):
                while replica.calls < before + count and not running.done() and await stage.queue.depth() < ORDINALS:
                    await asyncio.sleep(0.001)
        async with stage.collector():
            groups = await stage.groups(ORDINALS)
    assert content(groups) == expected()
    assert len(groups) == ORDINALS


async def test_a_group_that_the_trainer_refuses_is_drawn_as_from_the_start(stage: Stage) -> None:
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", uneven), stage.collector():
        entries = []
        while len(entries) < ORDINALS:
            entries += await stage.queue.read(ORDINALS, block_seconds=5)
        refused = next(entry for entry in entries if expected()[entry.ordinal][1] == REDRAWS)
        await stage.queue.discard(refused, "made up by the test")
        (again,) = await stage.groups(1)
    assert content([again]) == {refused.ordinal: expected()[refused.ordinal]}


async def test_a_redraw_keeps_the_law_of_staleness(redis: Redis, run_name: str) -> None:
    stage = Stage(redis, run_name, staleness=0)
    stage.dynamic_sampling = DynamicSamplingSettings(redraws=REDRAWS)
    await stage.events.publish(VersionPublished(1, ""))
    async with stage.replica("old", honest, version=0) as old, stage.replica("new", uneven, version=1):
        async with stage.collector():
            groups = await stage.groups(4)
        assert [group.ordinal for group in groups] == [4, 5, 6, 7]
        assert {group.oldest_version for group in groups} == {1}
        assert old.calls == 0


async def test_redraws_are_nobodys_failures(stage: Stage) -> None:
    stage.max_attempts = 1
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", uneven), stage.collector():
        assert len(await stage.groups(ORDINALS)) == ORDINALS
        assert stage.counted("ais_collector_groups_total", outcome="failed") == 0


async def test_without_the_setting_every_group_is_kept(stage: Stage) -> None:
    stage.dynamic_sampling = DynamicSamplingSettings()
    await stage.events.publish(VersionPublished(0, ""))
    async with stage.replica("a", uneven) as replica, stage.collector():
        assert {group.redraw for group in await stage.groups(ORDINALS)} == {0}
        assert replica.calls == ORDINALS
