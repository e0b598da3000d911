"""FP8 replicas of vLLM on a CPU in the deployment: the reward rises, replicas join, anything is killed.

With AIS_RECORD=FILE the run is recorded there, when all has passed: `benchmarks/results/compose_vllm.json`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ais.comparison.machine import commit, machine
from ais.launcher.directory.history import problems_of
from ais.runtime.settings import RunSettings
from tests.support.compose_stack import START_SECONDS, Stack, eventually, stack_of

pytestmark = [pytest.mark.compose, pytest.mark.timeout(2400)]

STEPS = 120
REPLICAS = 3
"""After scaling."""
SERVICES = ("secrets", "redis", "prepare", "rollout", "trainer", "collector", "prometheus")
FILES = ("docker-compose.yml", "deploy/compose.vllm.yml")
TRAINING_SECONDS = 900


@pytest.fixture(scope="module")
def rewards() -> list[float]:
    """Mean reward of each step, once the run has ended."""
    return []


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory, rewards: list[float]
) -> Iterator[Stack]:
    settings = tmp_path_factory.mktemp("stack") / "env"
    build = ("rollout", "trainer")
    began, failed_before = time.monotonic(), request.session.testsfailed
    with stack_of(request, repository, SERVICES, settings, *FILES, build=build, AIS_RUN__STEPS=str(STEPS)) as stack:
        stack.up(1)
        yield stack
    if (record := os.environ.get("AIS_RECORD")) and rewards and request.session.testsfailed == failed_before:
        write_record(Path(record), time.monotonic() - began, rewards)


def write_record(file: Path, seconds: float, rewards: Sequence[float]) -> None:
    """What a run of this module has shown, its images' builds and its end included in the seconds."""
    record = {
        "test": "tests/compose/test_vllm_stack.py",
        "commit": commit(),
        "machine": machine(),
        "load_of_15_minutes": round(os.getloadavg()[2], 1),
        "seconds": round(seconds, 2),
        "rewards": [round(reward, 3) for reward in rewards],
    }
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def version_of(stack: Stack) -> float:
    return stack.value('ais_policy_version{job="trainer"}')


def test_the_demo_trains_on_a_replica_of_vllm_in_fp8(stack: Stack) -> None:
    eventually(lambda: version_of(stack) >= 2, START_SECONDS, "two steps are trained")
    log = stack.compose("exec", "-T", "rollout", "ais", "config", "-c", "/etc/ais/examples/sort16/config.toml")
    assert 'engine = "vllm"' in log
    assert 'weights = "e4m3"' in log


def test_replicas_that_join_serve_the_newest_version_and_sample(stack: Stack) -> None:
    stack.up(REPLICAS)
    for moved in ("ais_rollout_policy_version > 0", "ais_rollout_generated_tokens_total > 0"):
        eventually(
            lambda moved=moved: len({labels["instance"] for labels in stack.query(moved)}) == REPLICAS,
            START_SECONDS,
            f"{moved} on {REPLICAS} replicas",
        )


@pytest.mark.parametrize("service", ["rollout", "redis", "collector", "trainer"])
def test_any_container_may_be_killed(stack: Stack, service: str) -> None:
    stack.kill(service)
    version = version_of(stack)
    stack.up(REPLICAS)
    if version < STEPS:
        eventually(
            lambda: version_of(stack) > version or stack.trained(),  # the last step may come while the others start
            START_SECONDS,
            f"a step after version {version:g} is trained",
        )


def test_the_run_ends_with_more_reward_and_every_group_trained_once_on_the_version_that_it_asked_for(
    stack: Stack, rewards: list[float], tmp_path: Path
) -> None:
    """With max_staleness 0, a group of any older version, such as a newcomer's first ones, would be in steps.jsonl."""
    eventually(stack.trained, TRAINING_SECONDS, f"trainer and collector have ended without error after {STEPS} steps")
    run = stack.run_directory(tmp_path / "run")
    assert problems_of(run, STEPS, RunSettings().groups_per_batch) == []
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert {step["staleness_max"] for step in steps} == {0}
    rewards.extend(step["reward_mean"] for step in steps)
    assert sum(rewards[-10:]) > sum(rewards[:10]) + 0.5  # 0.05 on average
