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

import pytest

from ais.collector.judging.judge import OwnJudge, is_quick, open_judge
from ais.collector.judging.pool import JudgePool, Outcome
from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.settings import CollectorSettings, JudgingSettings, TaskSettings
from ais.contracts.events import VersionPublished
from ais.contracts.sampling import FinishReason
from ais.runtime.process import UnavailableError
from tests.support.replicas.scripted_replicas import Stage, honest

PROMPT = Prompt("p", "q", "42")
ENDLESS_PATTERN = r"(?:(a+)+\$|####\s*(\S+))"
ENDLESS = "a" * 60 + "b"
"""Takes that pattern about 2^60 steps."""


def task(pattern: str = ENDLESS_PATTERN) -> TaskSettings:
    return TaskSettings(verifier="regular_expression", pattern=pattern)


class Counted(Counter[Outcome]):
    def __call__(self, outcome: Outcome, seconds: float) -> None:
        self[outcome] += 1


@asynccontextmanager
async def pool(counted: Counted, pattern: str = ENDLESS_PATTERN, **settings: Any) -> AsyncIterator[JudgePool]:
    limits = JudgingSettings.model_validate({"workers": 1, "seconds": 30.0} | settings)
    async with JudgePool(task(pattern), limits, counted) as opened:
        yield opened


async def rewards(judge: JudgePool, *texts: str, prompt: Prompt = PROMPT) -> tuple[float, ...]:
    return await judge.rewards(prompt, [(text, FinishReason.STOP) for text in texts])


def process_of(judge: JudgePool) -> asyncio.subprocess.Process:
    process = judge._workers[0]._process
    assert process is not None
    return process


async def test_rewards_come_in_the_order_of_the_responses() -> None:
    counted = Counted()
    async with pool(counted, workers=2) as judge:
        assert await rewards(judge, "#### 42", "#### 41", "42", "####42.") == (1.0, 0.0, 0.0, 1.0)
    assert counted == {Outcome.JUDGED: 4}


async def test_a_response_that_a_pattern_never_gets_done_with_is_given_up_while_the_loop_goes_on() -> None:
    counted = Counted()
    async with pool(counted, seconds=1.5) as judge:
        await rewards(judge, "#### 42")
        stuck = process_of(judge)
        judging = asyncio.create_task(rewards(judge, ENDLESS))
        longest, last = 0.0, time.monotonic()
        while not judging.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert await judging == (0.0,)
        assert longest < 1.0
        assert stuck.returncode == -signal.SIGKILL
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
        os.kill(process_of(judge).pid, signal.SIGKILL)
        assert await judging == (0.0,)
        assert await rewards(judge, "#### 42") == (1.0,)
    assert counted == {Outcome.DIED: 1, Outcome.JUDGED: 1}


async def test_a_judgement_that_is_cancelled_leaves_no_answer_for_the_next() -> None:
    async with pool(Counted()) as judge:
        judging = asyncio.create_task(rewards(judge, ENDLESS))
        while not judge._idle.empty():
            await asyncio.sleep(0)
        judging.cancel()
        await asyncio.gather(judging, return_exceptions=True)
        assert await rewards(judge, "#### 41", "#### 42") == (0.0, 1.0)


async def test_a_failed_judgement_ends_the_run_where_that_is_asked_for() -> None:
    async with pool(Counted(), seconds=0.5, on_failure="end") as judge:
        with pytest.raises(UnavailableError, match=r"prompt 'p' cannot be judged: judging took longer than 0\.5 s"):
            await rewards(judge, ENDLESS)


async def test_no_worker_is_left_when_the_pool_ends() -> None:
    async with pool(Counted(), workers=3) as judge:
        processes = [worker._process for worker in judge._workers]
        judging = asyncio.create_task(rewards(judge, ENDLESS))
        while judge._idle.qsize() == 3:
            await asyncio.sleep(0)
        judging.cancel()
    assert all(process is not None and process.returncode is not None for process in processes)
    await asyncio.gather(judging, return_exceptions=True)


async def test_a_pattern_that_does_not_compile_stops_the_pool_from_opening() -> None:
    with pytest.raises((UnavailableError, TaskError), match="not a regular expression"):
        async with pool(Counted(), pattern="("):
            pass


@pytest.mark.parametrize(
    ("settings", "quick"),
    [
        (TaskSettings(), True),
        (TaskSettings(verifier="regular_expression"), True),
        (TaskSettings(verifier="regular_expression", pattern="x"), False),
        (TaskSettings(name="reasoning_gym", datasets=({"name": "gcd"},)), False),  # type: ignore[arg-type]
    ],
)
def test_only_what_is_quick_for_certain_is_judged_in_the_collector(settings: TaskSettings, quick: bool) -> None:
    assert is_quick(settings) == quick


async def test_the_demo_pays_for_no_worker() -> None:
    async with open_judge(CollectorSettings()) as judge:
        assert isinstance(judge, OwnJudge)


async def test_a_collector_goes_on_past_responses_that_cannot_be_judged(redis: Any, run_name: str) -> None:
    class EndlessEveryOtherTime:
        """The pool, for responses that its pattern is never done with."""

        def __init__(self, judge: JudgePool) -> None:
            self.judge = judge

        async def rewards(self, prompt: Prompt, responses: Sequence[tuple[str, FinishReason]]) -> tuple[float, ...]:
            texts = [ENDLESS if index else "#### 42" for index in range(len(responses))]
            return await rewards(self.judge, *texts)

    stage = Stage(redis, run_name)
    await stage.events.publish(VersionPublished(0, ""))
    async with pool(Counted(), seconds=1.0, workers=2) as judge, stage.replica("a", honest):
        stage.judge = EndlessEveryOtherTime(judge)
        async with stage.collector():
            groups = await stage.groups(4)
    assert [group.rewards for group in groups] == [(1.0, 0.0)] * 4
