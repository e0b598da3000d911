"""Judging in worker processes: no response can stop the collector, take its memory or end it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psutil
import pytest

from ais.collector.judging.judge import Judge, Judged, Panel, UnjudgedError
from ais.collector.judging.judgement import Outcome
from ais.collector.judging.opening import open_judge
from ais.collector.judging.pool import JudgePool
from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.rewards.response import Response
from ais.collector.settings import CollectorSettings, JudgingSettings, TaskSettings
from ais.collector.settings.rewards import Component, RegularExpression
from ais.contracts.events import VersionPublished
from ais.runtime.process import UnavailableError
from tests.support.judges import ended
from tests.support.replicas.scripted_replicas import Stage, honest

PROMPT = Prompt("p", "q", "42")
ENDLESS_PATTERN = r"(?:(a+)+\$|####\s*(\S+))"
ENDLESS = "a" * 60 + "b"
"""Takes that pattern about 2^60 steps."""


class Counted(Counter[Outcome]):
    def __call__(self, component: str, outcome: Outcome, seconds: float) -> None:
        self[outcome] += 1


def component(pattern: str = ENDLESS_PATTERN) -> Component:
    return RegularExpression(pattern=pattern)


@asynccontextmanager
async def pool(counted: Counted, pattern: str = ENDLESS_PATTERN, **settings: Any) -> AsyncIterator[JudgePool]:
    limits = JudgingSettings.model_validate({"workers": 1, "seconds": 30.0} | settings)
    async with JudgePool({("", 0): (component(pattern), ())}, limits, counted) as opened:
        yield opened


async def rewards(judge: JudgePool, *texts: str, prompt: Prompt = PROMPT) -> tuple[float, ...]:
    """What each text is worth; 0 where it cannot be judged."""
    judgements = await asyncio.gather(*(judge.judge(("", 0), prompt, ended(text)) for text in texts))
    return tuple(judgement[""] if isinstance(judgement, dict) else 0.0 for judgement in judgements)


def process_of(judge: JudgePool) -> asyncio.subprocess.Process:
    process = judge.workers[0].process
    assert process is not None
    return process


def worker_below(process: asyncio.subprocess.Process) -> psutil.Process:
    """The process that judges, below its keeper."""
    (worker,) = psutil.Process(process.pid).children()
    return worker


async def test_rewards_come_in_the_order_of_the_responses() -> None:
    counted = Counted()
    async with pool(counted, workers=2) as judge:
        assert await rewards(judge, "#### 42", "#### 41", "42", "####42.") == (1.0, 0.0, 0.0, 1.0)
    assert counted == {Outcome.JUDGED: 4}


async def test_a_response_that_a_pattern_never_gets_done_with_is_given_up_while_the_loop_goes_on() -> None:
    counted = Counted()
    async with pool(counted, seconds=1.5) as judge:
        await rewards(judge, "#### 42")
        stuck, worker = process_of(judge), worker_below(process_of(judge))
        judging = asyncio.create_task(rewards(judge, ENDLESS))
        longest, last = 0.0, time.monotonic()
        while not judging.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert await judging == (0.0,)
        assert longest < 1.0
        assert stuck.returncode is not None
        assert not worker.is_running()
        assert await rewards(judge, "#### 42", "#### 41") == (1.0, 0.0)
    assert counted == {Outcome.JUDGED: 3, Outcome.OVERTIME: 1}


async def test_one_endless_response_costs_the_others_of_its_group_nothing_but_time() -> None:
    async with pool(Counted(), seconds=3.0, workers=2) as judge:
        assert await rewards(judge, "#### 42", ENDLESS, "#### 42", ENDLESS, "#### 1") == (1.0, 0.0, 1.0, 0.0, 0.0)


async def test_a_response_that_takes_more_memory_than_allowed_is_given_up() -> None:
    counted = Counted()
    async with pool(counted, memory_megabytes=32) as judge:
        assert await rewards(judge, "x" * 200_000_000) == (0.0,)
        assert await rewards(judge, "#### 42") == (1.0,)
    assert counted == {Outcome.MEMORY: 1, Outcome.JUDGED: 1}


async def test_a_verifier_that_raises_is_an_outcome_and_keeps_its_worker() -> None:
    counted = Counted()
    nobody_can_judge: Any = None
    async with pool(counted) as judge:
        before = process_of(judge).pid
        assert await rewards(judge, "#### 42", prompt=replace(PROMPT, answer=nobody_can_judge)) == (0.0,)
        assert await rewards(judge, "#### 42") == (1.0,)
        assert process_of(judge).pid == before
    assert counted == {Outcome.ERROR: 1, Outcome.JUDGED: 1}


async def test_a_worker_that_dies_is_replaced() -> None:
    counted = Counted()
    async with pool(counted) as judge:
        judging = asyncio.create_task(rewards(judge, ENDLESS))
        await asyncio.sleep(0)
        os.kill(worker_below(process_of(judge)).pid, signal.SIGKILL)
        assert await judging == (0.0,)
        assert await rewards(judge, "#### 42") == (1.0,)
    assert counted == {Outcome.DIED: 1, Outcome.JUDGED: 1}


async def test_a_judgement_that_is_cancelled_leaves_no_answer_for_the_next() -> None:
    async with pool(Counted()) as judge:
        judging = asyncio.create_task(rewards(judge, ENDLESS))
        while judge.idle:
            await asyncio.sleep(0)
        judging.cancel()
        await asyncio.gather(judging, return_exceptions=True)
        assert await rewards(judge, "#### 41", "#### 42") == (0.0, 1.0)


@asynccontextmanager
async def endless_panel(on_failure: str) -> AsyncIterator[Any]:
    task = TaskSettings(verifier="regular_expression", pattern=ENDLESS_PATTERN)
    judging = JudgingSettings.model_validate({"workers": 1, "seconds": 0.5, "on_failure": on_failure})
    async with open_judge(CollectorSettings(task=task, judging=judging)) as judge:
        yield judge


async def test_a_failed_judgement_ends_the_run_where_that_is_asked_for() -> None:
    async with endless_panel("end") as judge:
        with pytest.raises(UnavailableError, match=r"'p' cannot be judged by regular_expression: judging took longer"):
            await judge.judge(PROMPT, [ended(ENDLESS)])


async def test_a_failed_judgement_asks_for_the_group_again_where_that_is_asked_for() -> None:
    async with endless_panel("again") as judge:
        with pytest.raises(UnjudgedError, match="judging took longer"):
            await judge.judge(PROMPT, [ended("#### 42"), ended(ENDLESS)])


async def test_a_failed_judgement_stands_in_the_group_with_its_reason() -> None:
    async with endless_panel("zero") as judge:
        judged = await judge.judge(PROMPT, [ended("#### 42"), ended(ENDLESS)])
    assert judged.rewards == (1.0, 0.0)
    ((failure,),) = [part.failures for part in judged.components]
    assert (failure.index, failure.outcome) == (1, "overtime")


async def test_no_worker_is_left_when_the_pool_ends() -> None:
    others = set(psutil.Process().children(recursive=True))
    async with pool(Counted(), workers=3) as judge:
        below = set(psutil.Process().children(recursive=True)) - others
        assert len(below) >= 6
        judging = asyncio.create_task(rewards(judge, ENDLESS))
        while judge.idle == 3:
            await asyncio.sleep(0)
        judging.cancel()
    assert not any(process.is_running() for process in below)
    await asyncio.gather(judging, return_exceptions=True)


async def test_a_pattern_that_does_not_compile_stops_the_pool_from_opening() -> None:
    with pytest.raises((UnavailableError, TaskError), match="not a regular expression"):
        async with pool(Counted(), pattern="("):
            pass


async def test_the_demo_pays_for_no_worker() -> None:
    before = set(psutil.Process().children(recursive=True))
    async with open_judge(CollectorSettings()) as judge:
        assert isinstance(judge, Panel)
        assert set(psutil.Process().children(recursive=True)) <= before


class EndlessEveryOtherTime:
    """A judge whose pattern is never done with every response but the first."""

    def __init__(self, judge: Judge) -> None:
        self.judge_ = judge

    async def judge(self, prompt: Prompt, responses: Sequence[Response]) -> Judged:
        return await self.judge_.judge(
            PROMPT, [ended(ENDLESS if index else "#### 42") for index in range(len(responses))]
        )


async def test_a_catastrophic_pattern_costs_its_time_limit_and_not_the_collectors_loop(
    redis: Any, run_name: str
) -> None:
    stage = Stage(redis, run_name)
    await stage.events.publish(VersionPublished(0, ""))
    async with endless_panel("zero") as judge, stage.replica("a", honest):
        stage.judge = EndlessEveryOtherTime(judge)
        async with stage.collector():
            groups = await stage.groups(4)
            late = stage.counted("ais_collector_loop_lag_seconds_sum")
            mean_lag = late / max(1.0, stage.counted("ais_collector_loop_lag_seconds_count"))
    assert [group.rewards for group in groups] == [(1.0, 0.0)] * 4
    assert [failure.outcome for group in groups for part in group.components for failure in part.failures] == [
        "overtime"
    ] * 4
    assert mean_lag < 0.25
