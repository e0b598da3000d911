"""Agents in the deployment: episodes are played in containers that know the collector alone, by mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ais.launcher.directory.history import problems_of
from tests.support.compose_stack import START_SECONDS, Stack, eventually, stack_of

pytestmark = [pytest.mark.compose, pytest.mark.timeout(2400)]

STEPS = 4
GROUPS = 2
AGENTS = 2
SERVICES = ("secrets", "redis", "prepare", "rollout", "trainer", "collector", "agent", "evaluation", "prometheus")
TRAINING_SECONDS = 600


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    settings = {
        "AIS_EXAMPLE": "agents",
        "AIS_AGENTS": str(AGENTS),
        "AIS_RUN__NAME": "demo",
        "AIS_RUN__STEPS": str(STEPS),
        "AIS_RUN__GROUPS_PER_BATCH": str(GROUPS),
        "AIS_RUN__SAMPLES_PER_GROUP": "4",
        "AIS_LAUNCHER__EVALUATION_PROMPTS": "4",
        "AIS_LAUNCHER__EVALUATION_CHECKPOINTS": "2",
    }
    directory = tmp_path_factory.mktemp("stack")
    with stack_of(request, repository, SERVICES, directory / "env", "docker-compose.yml", **settings) as stack:
        stack.up(1)
        yield stack


def test_an_agent_has_the_certificate_of_agents_and_a_token_for_episodes_alone(stack: Stack) -> None:
    found = stack.compose("exec", "-T", "--index", "1", "agent", "ls", "/etc/ais/secrets").split()
    assert set(found) == {"agent.token", "ca.crt", "tls.crt", "tls.key"}


def test_an_agent_that_is_killed_costs_no_group(stack: Stack, tmp_path: Path) -> None:
    eventually(lambda: stack.value('ais_policy_version{job="trainer"}') >= 1, START_SECONDS, "a step is trained")
    assert len(stack.containers("agent")) == AGENTS
    stack.kill("agent")
    eventually(stack.trained, TRAINING_SECONDS, f"trainer and collector have ended without error after {STEPS} steps")
    assert problems_of(stack.run_directory(tmp_path / "run"), STEPS, GROUPS) == []


def test_the_evaluation_is_played_by_agents_of_its_own(stack: Stack, tmp_path: Path) -> None:
    eventually(lambda: stack.exit_codes("evaluation")["evaluation-1"] == 0, TRAINING_SECONDS, "the run is evaluated")
    run = stack.run_directory(tmp_path / "run")
    assert len((run / "evaluations.jsonl").read_text().splitlines()) == 4  # two policies, first and last checkpoint
    assert (run / "report.html").is_file()
