"""What a trainer does with the evaluations that come beside its steps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from ais.contracts.evaluation.board import EvaluationBoard
from ais.contracts.events import Finished
from ais.contracts.keys import Keys
from ais.runtime.tasks import end_tasks
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.service import serve_trainer
from ais.trainer.settings import Settings
from tests.support.collector_stand_in import StandInCollector
from tests.support.records import evaluation_result
from tests.support.runs.lines import whole_lines


@pytest.fixture
def settings(redis_url: str, run_name: str, tmp_path: Path) -> Settings:
    demo_model(seed=0).save_pretrained(tmp_path / "source")
    run = {"name": run_name, "directory": tmp_path, "model": tmp_path / "source", "steps": 12, "groups_per_batch": 2}
    return Settings.model_validate(
        {
            "run": run | {"samples_per_group": 4, "max_staleness": 0},
            "redis": {"url": redis_url},
            "trainer": {"checkpoints": {"every_steps": 5, "keep": 2}, "push": {"final_seconds": 0}},
            "evaluation": {"every_steps": 2},
        }
    )


class Evaluating(StandInCollector):
    """Evaluates, too: what a step scores, the test says. Training waits for the score of each step that has one."""

    def __init__(self, redis: Redis, settings: Settings, scores: dict[int, float]) -> None:
        super().__init__(redis, settings.run)
        self._settings = settings
        self._board = EvaluationBoard(redis, Keys(settings.run.name))
        self._scores = scores
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        """Clear: it publishes nothing from step 4 on."""

    async def publish(self, ordinal: int) -> None:
        position = await self._trainer.position()
        if position is not None and (score := self._scores.get(position.version)) is not None:
            await self._board.publish(evaluation_result(position.version, sums=score), position.incarnation)
            while not any(line["step"] == position.version for line in lines(self._settings)):
                await asyncio.sleep(0.02)
        if position is not None and position.version >= 4:
            await self.may_go_on.wait()
        await super().publish(ordinal)


def lines(settings: Settings, name: str = "held_out.jsonl") -> list[dict[str, Any]]:
    return whole_lines(settings.run.path / name)


async def train(settings: Settings, stop: asyncio.Event | None = None) -> None:
    async with asyncio.timeout(90):
        await serve_trainer(settings, stop or asyncio.Event())


async def test_results_are_kept_once_and_the_best_checkpoint_stays(settings: Settings, redis: Redis) -> None:
    scores = {0: 0.1, 2: 0.5, 4: 0.9, 6: 0.7, 8: 0.8, 10: 0.6}
    collector = asyncio.create_task(Evaluating(redis, settings, scores).run())
    await train(settings)
    await end_tasks(collector)
    assert {line["step"]: line["reward_mean"] for line in lines(settings)} == scores
    assert len(lines(settings)) == len(scores)
    checkpoints = settings.run.path / "checkpoints"
    assert (checkpoints / "best").readlink() == Path("step-000004")
    assert sorted(path.name for path in checkpoints.glob("step-*")) == ["step-000004", "step-000010", "step-000012"]
    assert json.loads((settings.run.path / "model/manifest.json").read_text())["early_stop"] == ""


async def test_a_run_that_gets_no_better_ends_early_and_says_why(settings: Settings, redis: Redis) -> None:
    patient = settings.evaluation.model_copy(update={"patience": 2, "metric": "sums/pass@1"})
    settings = settings.model_copy(update={"evaluation": patient})
    events = Evaluating(redis, settings, {0: 0.1, 2: 0.5, 4: 0.4, 6: 0.3})
    collector = asyncio.create_task(events.run())
    await train(settings)
    await asyncio.wait_for(collector, 20)
    assert any(isinstance(event, Finished) for event in events.events)
    assert len(lines(settings, "steps.jsonl")) == 6
    manifest = json.loads((settings.run.path / "model/manifest.json").read_text())
    assert manifest["step"] == 6
    assert "2 evaluations in a row were not better than that of step 2" in manifest["early_stop"]


def leads_to(link: Path) -> str | None:
    try:
        return link.readlink().name
    except FileNotFoundError:  # it goes while the checkpoint that it is to lead to is not there
        return None


async def test_evaluations_of_steps_that_are_trained_again_are_forgotten(settings: Settings, redis: Redis) -> None:
    scores = {0: 0.1, 2: 0.5, 4: 0.9}
    events = Evaluating(redis, settings, scores)
    events.may_go_on.clear()
    collector, stop = asyncio.create_task(events.run()), asyncio.Event()
    training = asyncio.create_task(train(settings, stop))
    checkpoints = settings.run.path / "checkpoints"
    async with asyncio.timeout(60):
        while leads_to(checkpoints / "best") != "step-000004":
            await asyncio.sleep(0.02)
    stop.set()
    await training
    assert len(lines(settings)) == 3
    (checkpoints / "step-000004/manifest.json").write_text("damaged")  # training goes on from step 2
    del scores[4]
    events.may_go_on.set()
    await train(settings)
    await end_tasks(collector)
    assert {line["step"]: line["reward_mean"] for line in lines(settings)} == {0: 0.1, 2: 0.5}
    assert list(await EvaluationBoard(redis, Keys(settings.run.name)).results()) == [0, 2]
    assert (checkpoints / "best").readlink() == Path("step-000002")
