"""Evaluation beside training, with a real collector and real gRPC replicas whose behaviour the test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.collector.evaluating.while_training import ATTEMPTS, Evaluator
from ais.collector.exercise import Exercise
from ais.collector.metrics import CollectorMetrics
from ais.collector.prompts.prompts import Split
from ais.collector.settings import CollectorSettings, TaskSettings
from ais.collector.tasks.task import open_task
from ais.contracts.evaluation.board import EvaluationBoard
from ais.contracts.evaluation.results import EvaluationResult
from ais.contracts.evaluation.settings import EvaluationSettings
from ais.contracts.events import Resumed, TrainerEvents, VersionPublished
from ais.contracts.v1 import rollout_pb2
from ais.contracts.v1 import trajectory_pb2 as pb
from ais.runtime.tasks import end_tasks
from tests.support.judges import own_judge
from tests.support.records import evaluation_result
from tests.support.replicas.scripted_replicas import Stage, honest, tokenizer

PROMPTS = 6


@pytest.fixture
def stage(redis: Redis, run_name: str) -> Stage:
    return Stage(redis, run_name, staleness=1)


@asynccontextmanager
async def evaluator(
    stage: Stage, metrics: CollectorRegistry | None = None, **settings: Any
) -> AsyncIterator[EvaluationBoard]:
    """Evaluates beside the collector of the stage."""
    assert stage.made is not None
    task = TaskSettings(digits=6)
    board = EvaluationBoard(stage.redis, stage.keys)
    made = Evaluator(
        run=stage.run,
        collector=CollectorSettings(task=task, group_deadline_seconds=stage.deadline_seconds),
        settings=EvaluationSettings(**{"every_steps": 2, "prompts": PROMPTS, "samples": 2} | settings),
        exercise=Exercise(open_task(task, 0, Split.HELD_OUT), tokenizer(), own_judge(task)),
        events=TrainerEvents(stage.redis, stage.keys),
        board=board,
        fleet=stage.made.fleet,
        verify=stage.made.verify,
        metrics=CollectorMetrics(metrics or CollectorRegistry(), task.all_component_labels),
    )
    following = asyncio.create_task(made.follow())
    try:
        yield board
    finally:
        await end_tasks(following)


async def results(board: EvaluationBoard, count: int) -> Mapping[int, EvaluationResult]:
    async with asyncio.timeout(60):
        while len(found := await board.results()) < count:
            await asyncio.sleep(0.02)
    return found


async def test_each_multiple_is_evaluated_and_names_its_versions_while_training_gets_its_groups(stage: Stage) -> None:
    await stage.events.publish(Resumed(0, ""))
    metrics = CollectorRegistry()
    async with stage.replica("a", honest), stage.collector(), evaluator(stage, metrics) as board:
        groups = await stage.groups(8)
        first = (await results(board, 1))[0]
        for version in (1, 2):
            await stage.events.publish(VersionPublished(version, ""))
        async with stage.replica("b", honest, version=2):
            second = (await results(board, 2))[2]
    assert [group.ordinal for group in groups] == list(range(8))
    assert (first.first_version, first.last_version) == (0, 0)
    assert (second.first_version, second.last_version) == (2, 2)
    (score,) = first.sources
    assert (score.source, score.prompts, score.samples, score.unanswered) == ("sort6", PROMPTS, 2, 0)
    assert score.reward.mean == score.passed[1].mean == 0.5  # the first of two samples is right
    assert score.passed[2].mean == 1.0
    assert score.components == {"exact_match": score.reward}
    labels = {"source": "sort6", "component": "exact_match"}
    assert metrics.get_sample_value("ais_evaluation_component_mean", labels) == 0.5


async def test_evaluation_has_no_more_than_its_share_of_the_slots(stage: Stage) -> None:
    under_way = highest = 0

    async def counting(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        nonlocal under_way, highest
        samples = request.samples if "evaluation" in request.group_id else 0
        under_way += samples
        highest = max(highest, under_way)
        await asyncio.sleep(0.05)
        under_way -= samples
        async for trajectory in honest(request, context):
            yield trajectory

    await stage.events.publish(Resumed(0, ""))
    async with stage.replica("a", counting, slots=16), stage.collector(), evaluator(stage, slot_share=0.25) as board:
        await results(board, 1)
    assert highest == 4


async def test_a_prompt_that_no_replica_answers_stays_unanswered_and_the_others_count(stage: Stage) -> None:
    calls = 0

    async def breaks(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        nonlocal calls
        if "-sort6-3" in request.group_id:
            calls += 1
            await context.abort(grpc.StatusCode.INTERNAL, "NaN logits")
        async for trajectory in honest(request, context):
            yield trajectory

    await stage.events.publish(Resumed(0, ""))
    async with stage.replica("a", breaks), stage.collector(), evaluator(stage) as board:
        (score,) = (await results(board, 1))[0].sources
    assert (score.prompts, score.unanswered) == (PROMPTS - 1, 1)
    assert calls == ATTEMPTS


async def test_an_evaluation_that_a_new_trainer_interrupts_is_made_again(stage: Stage) -> None:
    held, again = asyncio.Event(), asyncio.Event()

    async def held_up(
        request: rollout_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Trajectory]:
        if "evaluation" in request.group_id:
            held.set()
            await again.wait()
        async for trajectory in honest(request, context):
            yield trajectory

    await stage.events.publish(Resumed(0, ""))
    async with stage.replica("a", held_up) as replica, stage.collector(), evaluator(stage) as board:
        await asyncio.wait_for(held.wait(), 20)
        await stage.trainer(1).publish(Resumed(0, "other"))
        stage.serving["a"] = (0, "other")
        again.set()
        await stage.register("a", replica.port, 0, digest="other")
        result = (await results(board, 1))[0]
    assert result.sources[0].unanswered == 0


async def test_a_result_from_before_a_new_trainer_and_a_second_one_are_refused(stage: Stage) -> None:
    board = EvaluationBoard(stage.redis, stage.keys)
    await stage.trainer(2).publish(Resumed(0, ""))
    assert not await board.publish(evaluation_result(0, sums=0.5), incarnation=1)
    assert await board.publish(evaluation_result(0, sums=0.5), incarnation=2)
    assert not await board.publish(evaluation_result(0, sums=0.7), incarnation=2)
    assert (await board.results())[0].sources[0].reward.mean == 0.5


async def test_strays_among_the_results_are_skipped_and_later_steps_can_be_forgotten(stage: Stage) -> None:
    board = EvaluationBoard(stage.redis, stage.keys)
    await stage.trainer(1).publish(Resumed(0, ""))
    for step in (0, 2, 4):
        await board.publish(evaluation_result(step, sums=0.5), incarnation=1)
    await stage.redis.hset(stage.keys.evaluations, "3", b"\xff not JSON")
    await stage.redis.hset(stage.keys.evaluations, "5", evaluation_result(6, sums=0.5).model_dump_json())
    assert list(await board.results()) == [0, 2, 4]
    await board.forget_after(2)
    assert list(await board.results()) == [0, 2]
