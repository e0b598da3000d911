"""Environments of the package `verifiers`: our side with a stand-in for that package, and all of it with it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ais.collector.episodes import harnessed
from ais.collector.episodes.answering import answers
from ais.collector.episodes.call import Answers, Call
from ais.collector.exercise import Exercise, open_exercise
from ais.collector.judging import verifiers_package
from ais.collector.prompts.prompts import Split
from ais.collector.settings import CollectorProcessSettings
from ais.contracts.sampling import SamplingParameters
from ais.runtime.process import UnavailableError
from ais.runtime.reading import read_settings
from tests.support.turns.replica import EXAMPLES, VOCABULARY, Replica, served
from tests.support.verifiers_package.interpreter import INTERPRETER

POLICY = EXAMPLES / "guess_number" / "model"
STAND_IN = Path(__file__).parents[2] / "support" / "verifiers_package" / "stand_in.py"


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    async with served(POLICY) as replica:
        yield replica


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    file = tmp_path / "python"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n', encoding="utf-8")
    file.chmod(0o755)
    return file


@asynccontextmanager
async def exercise(taskset: str, interpreter: Path, **environment: Any) -> AsyncIterator[Exercise]:
    named = {"name": "verifiers", "taskset": taskset, "interpreter": interpreter}
    settings = CollectorProcessSettings.model_validate(
        {
            "run": {"model": POLICY},
            "rollout": {"max_model_len": 256},
            "collector": {
                "task": {"name": "verifiers", "tasks": 20, "environment": named | environment},
                "prompt": {"chat_template": EXAMPLES / "openai_client" / "template.jinja"},
            },
        }
    )
    async with open_exercise(settings, Split.TRAIN) as opened:
        yield opened


async def played(made: Exercise, replica: Replica, ordinal: int = 0, samples: int = 2) -> Answers:
    asked = Call("group", samples, SamplingParameters(max_new_tokens=4, seed=11), VOCABULARY, 600.0)
    return await answers(made, made.prompt(ordinal), replica.client, asked)


async def test_tasks_that_ask_the_same_are_told_apart_by_their_keys(interpreter: Path) -> None:
    async with exercise("plays", interpreter) as made:
        assert made.held_out is not None
        assert made.task.distinct is not None
        assert made.held_out.distinct is not None
        assert min(made.task.distinct, made.held_out.distinct) > 0
        assert made.task.distinct + made.held_out.distinct == 20


async def test_one_process_plays_all_groups_and_is_ended_with_the_exercise(interpreter: Path, replica: Replica) -> None:
    async with exercise("plays", interpreter) as made:
        groups = [await played(made, replica, ordinal) for ordinal in range(2)]
        (process,) = {reward for group in groups for reward in group.judged.rewards}
    assert not psutil.pid_exists(round(1000 * process))


@pytest.mark.parametrize(
    ("taskset", "outcome", "why"),
    [("fails", "error", "TaskError: the\\nrubric"), ("lingers", "overtime", "environment.seconds = 2 s")],
)
async def test_an_episode_that_fails_is_one_failure_worth_0(
    taskset: str, outcome: str, why: str, interpreter: Path, replica: Replica
) -> None:
    async with exercise(taskset, interpreter, seconds=2.0) as made:
        found = await played(made, replica)
    (failure, _) = found.judged.components[0].failures
    assert (found.judged.rewards, failure.outcome) == ((0.0, 0.0), outcome)
    assert why in failure.text


@pytest.mark.parametrize("taskset", ["dies", "mumbles"])
async def test_when_the_process_ends_another_is_started_and_in_the_end_it_is_told(
    taskset: str, interpreter: Path, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harnessed, "PAUSES", (0.0,))
    async with exercise(taskset, interpreter) as made:
        with pytest.raises(
            UnavailableError, match=rf"{taskset}.* started 2 times.*the process that plays environments"
        ):
            await played(made, replica, samples=1)


async def test_a_process_that_does_not_let_go_of_an_episode_is_ended(
    interpreter: Path, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifiers_package, "CANCEL_SECONDS", 0.1)
    async with exercise("clings", interpreter, seconds=2.0) as made:
        found = await played(made, replica, samples=1)
        assert found.judged.components[0].failures[0].outcome == "overtime"
        harness = made.harness(made.prompt(0))
        assert isinstance(harness, verifiers_package.VerifiersHarness)
        assert harness._place.player is not None
        assert harness._place.player.over


async def test_an_environment_or_an_interpreter_that_is_not_there_is_told(interpreter: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="needs the package verifiers, 0.4: ImportError: no such environment"):
        async with exercise("broken", interpreter):
            pass
    with pytest.raises(UnavailableError, match=r"environment\.interpreter: .*gone cannot be started"):
        async with exercise("plays", tmp_path / "gone"):
            pass


@pytest.mark.slow
@pytest.mark.verifiers
async def test_an_environment_of_the_package_plays_a_group_and_judges_it_by_its_rewards(replica: Replica) -> None:
    overrides = [f"collector.task.environment.interpreter={INTERPRETER}"]
    config = EXAMPLES / "verifiers_env" / "config.toml"
    settings = read_settings(CollectorProcessSettings, config, overrides, whole=False)
    async with open_exercise(settings, Split.TRAIN) as made:
        prompt = made.prompt(0)
        found = await played(made, replica, samples=4)
        text = made.tokenizer.tokenizer.decode
    assert text(found.prompt_token_ids) == "^00-31;"
    assert not any(component.failures for component in found.judged.components)
    for trajectory, reward in zip(found.trajectories, found.judged.rewards, strict=True):
        last = text(trajectory.token_ids[-trajectory.turns[-1].tokens :])
        assert reward == float(last == f"{prompt.metadata['task']['number']:02}$")
        assert all(text(turn.context_token_ids) in ("+", "-", "*") for turn in trajectory.turns[1:])
        assert reward or len(trajectory.turns) == settings.collector.task.each_source[0].environment.turns  # type: ignore[union-attr]
