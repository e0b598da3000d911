"""The deployment on a real Docker engine: one run that is watched, scaled, crashed, stopped and ended, in this order.

`make test-compose` makes the base images and runs this. Grafana is left out: Debian has no package to make an image of.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from tenacity import RetryError, Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from ais.launcher.directory.history import problems_of
from ais.runtime.settings import RunSettings

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1500)]

REPLICAS = 2
STEPS = 20
LAST_STEPS = 5
"""Trained after the stop."""
IMAGE_TAG = "test"
SERVICES = ("redis", "rollout", "trainer", "collector", "prometheus")

BUILD_SECONDS = 900
START_SECONDS = 300
TRAINING_SECONDS = 300
SCRAPE_SECONDS = 60
STOP_SECONDS = 120

Value = TypeVar("Value")


def eventually(read: Callable[[], Value], within: float, what: str) -> Value:
    """The first true value that `read` gives; fails naming `what` when none came in time."""
    poll = Retrying(
        retry=retry_if_result(lambda value: not value) | retry_if_exception_type(httpx.HTTPError),
        stop=stop_after_delay(within),
        wait=wait_fixed(1),
    )
    try:
        return poll(read)
    except RetryError as error:
        last = error.last_attempt
        pytest.fail(f"not within {within:g} s: {what}; last seen: {last.exception() or last.result()!r}")


class Stack:
    """A compose project of its own: names, volumes and ports are nobody else's."""

    def __init__(self, command: list[str], repository: Path) -> None:
        self._command = command
        self._repository = repository
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": f"ais-test-{os.getpid()}",
            "DOCKER_BUILDKIT": "0",
            "AIS_IMAGE_TAG": IMAGE_TAG,
            "AIS_BUILD_NETWORK": "host",
            "AIS_RUN__STEPS": "100000",  # it trains until the tests are done with it
            "PROMETHEUS_PORT": "0",  # a free one
        }

    def compose(self, *arguments: str, timeout: float = 60) -> str:
        """Output of a compose command; fails with all that it said when it does not succeed."""
        return self._output([*self._command, *arguments], timeout)

    def docker(self, *arguments: str, timeout: float = 60) -> str:
        """The same of a docker command."""
        return self._output(["docker", *arguments], timeout)

    def _output(self, command: list[str], timeout: float) -> str:
        done = subprocess.run(
            command, cwd=self._repository, env=self._environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
        return done.stdout

    def up(self, replicas: int, *options: str, **environment: str) -> None:
        """Starts what does not run, with that many replicas. `environment` stays for later commands."""
        self._environment |= environment
        scale = ("--scale", f"rollout={replicas}")
        self.compose("up", "--detach", *options, *scale, *SERVICES, timeout=START_SECONDS)

    @cached_property
    def _prometheus_address(self) -> str:
        return self.compose("port", "prometheus", "9090").strip()

    def prometheus(self, path: str, **parameters: str) -> Any:
        """What Prometheus's API answers."""
        answer = httpx.get(f"http://{self._prometheus_address}/api/v1/{path}", params=parameters, timeout=10)
        answer.raise_for_status()
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, str]]:
        """Labels of every series for which an expression of the dashboard gives a finite number now."""
        series = self.prometheus("query", query=expression.replace("$__rate_interval", "1m"))["result"]
        return [one["metric"] for one in series if math.isfinite(float(one["value"][1]))]

    def value(self, expression: str) -> float:
        """The number that an expression without labels gives now; NaN while there is none."""
        series = self.prometheus("query", query=expression)["result"]
        return float(series[0]["value"][1]) if series else math.nan

    def up_targets(self) -> list[str]:
        """Job of every target that Prometheus reaches."""
        targets = self.prometheus("targets", state="active")["activeTargets"]
        return sorted(target["labels"]["job"] for target in targets if target["health"] == "up")

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """What the engine knows of the containers of some services, of all when none is named; stopped ones too."""
        names = self.compose("ps", "--all", "--quiet", *services).split()
        containers: list[dict[str, Any]] = json.loads(self.docker("inspect", *names))
        return containers

    def exit_codes(self, *services: str) -> dict[str, int | None]:
        """Exit code of every container, by name; None while it runs."""
        states = {one["Name"]: one["State"] for one in self.containers(*services)}
        return {name: state["ExitCode"] if state["Status"] == "exited" else None for name, state in states.items()}

    def crash(self, service: str) -> None:
        """Kills the first process of a service's only container, as a crash would.

        The kernel ignores a SIGKILL that comes from inside the container, and after `docker kill` an engine does not
        restart it: both are taken for the wish of somebody. So the signal comes from the host's processes.
        """
        (container,) = self.containers(service)
        kill = f"import os, signal; os.kill({container['State']['Pid']}, signal.SIGKILL)"
        as_root_of_host = ("--pid", "host", "--user", "0", "--entrypoint", "python")
        self.docker("run", "--rm", *as_root_of_host, f"ais-rl:{IMAGE_TAG}", "-c", kill)

    def run_directory(self, destination: Path) -> Path:
        """A copy of the run's directory as the trainer's container has it, running or not."""
        (container,) = self.containers("trainer")
        self.docker("cp", f"{container['Id']}:/var/lib/ais/runs/demo", str(destination))
        return destination


def compose_command() -> list[str] | None:
    """The compose of this machine: the plug-in if there is one."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


def missing_prerequisite() -> str | None:
    """Why nothing can be deployed on this machine, or None."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    engine = subprocess.run(["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True)
    if engine.returncode != 0:
        return f"no Docker engine answers: {engine.stderr.strip()}"
    return None if compose_command() else "there is neither the docker compose plug-in nor docker-compose"


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, repository: Path) -> Iterator[Stack]:
    if "compose" not in request.config.getoption("markexpr"):
        pytest.skip("brings up the whole deployment: ask for it with -m compose, or make test-compose")
    if reason := missing_prerequisite():
        if os.environ.get("AIS_REQUIRE_DOCKER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    stack = Stack(compose_command() or [], repository)
    try:
        stack.compose("build", "rollout", timeout=BUILD_SECONDS)
        stack.up(REPLICAS)
        yield stack
    finally:
        print(stack.compose("logs", "--no-color", "--tail", "50", "rollout", "trainer", "collector"))
        stack.compose("down", "--volumes", "--remove-orphans", timeout=STOP_SECONDS)


def test_the_demo_trains_on_two_replicas(stack: Stack) -> None:
    eventually(
        lambda: stack.query(f'ais_policy_version{{job="trainer"}} >= {STEPS}'),
        TRAINING_SECONDS,
        f"the trainer has done {STEPS} steps",
    )
    for moved in ("ais_rollout_generated_tokens_total > 0", "ais_rollout_policy_version > 0"):
        assert len({labels["instance"] for labels in stack.query(moved)}) == REPLICAS, moved


def test_prometheus_has_every_service_as_an_up_target(stack: Stack) -> None:
    expected = sorted(["rollout"] * REPLICAS + ["trainer", "collector", "prometheus"])
    eventually(lambda: stack.up_targets() == expected, SCRAPE_SECONDS, f"up targets are {expected}")


NOT_IN_THE_DEMO = {"ais_reference_kl_nats"}
"""Its objective has no reference policy."""


def test_every_query_of_the_dashboard_returns_data(stack: Stack, dashboard_queries: list[str]) -> None:
    assert dashboard_queries
    for query in set(dashboard_queries) - NOT_IN_THE_DEMO:
        eventually(lambda query=query: stack.query(query), SCRAPE_SECONDS, f"data for {query}")


def test_promtool_accepts_the_prometheus_file(stack: Stack) -> None:
    report = stack.compose("exec", "-T", "prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    assert "SUCCESS" in report


def test_the_image_runs_as_an_ordinary_user(stack: Stack) -> None:
    assert stack.compose("exec", "-T", "trainer", "id", "--user").strip() == "10001"


def test_dead_letters_can_be_looked_at_in_a_container(stack: Stack) -> None:
    listing = stack.compose("exec", "-T", "trainer", "ais", "deadletter", "list", "-c", "/etc/ais/config.toml")
    assert "no dead letters" in listing


def test_a_replica_added_while_training_takes_the_newest_weights_and_samples(stack: Stack) -> None:
    more = REPLICAS + 1
    stack.up(more, "--no-recreate")
    for moved in ("ais_rollout_policy_version > 0", "ais_rollout_generated_tokens_total > 0"):
        eventually(
            lambda moved=moved: len({labels["instance"] for labels in stack.query(moved)}) == more,
            START_SECONDS,
            f"{moved} on {more} replicas",
        )


def test_the_run_goes_on_with_one_replica_and_no_failed_call_when_the_others_are_scaled_away(stack: Stack) -> None:
    stack.up(1, "--no-recreate")
    assert len(stack.containers("rollout")) == 1
    version = stack.value("ais_collector_policy_version")
    eventually(
        lambda: stack.value("ais_collector_policy_version") >= version + STEPS,
        TRAINING_SECONDS,
        f"the collector has seen {STEPS} more versions than {version:g}",
    )
    assert not stack.query("ais_collector_call_failures_total > 0")


def test_a_trainer_that_is_killed_comes_back_and_passes_where_it_was(stack: Stack) -> None:
    eventually(lambda: stack.value("ais_trainer_committed_version") > 0, TRAINING_SECONDS, "there is a checkpoint")
    version = stack.value('ais_policy_version{job="trainer"}')
    stack.crash("trainer")
    eventually(
        lambda: stack.query(f'ais_policy_version{{job="trainer"}} > {version} and ais_trainer_incarnation == 2'),
        TRAINING_SECONDS,
        f"trainer 2 is beyond version {version:g}",
    )
    (container,) = stack.containers("trainer")
    assert container["RestartCount"] == 1


def test_every_service_ends_without_error_when_the_stack_is_stopped(stack: Stack) -> None:
    """Nothing runs after it, until the next test."""
    stack.compose("stop", timeout=STOP_SECONDS)
    codes = stack.exit_codes()
    assert len(codes) == len(SERVICES)
    assert set(codes.values()) == {0}, codes


def test_the_stopped_run_goes_on_and_ends_with_each_group_trained_once(stack: Stack, tmp_path: Path) -> None:
    """The last of this module. Three trainers have shared the run: one was killed, one stopped, one finishes."""
    stopped = ledger_of(stack.run_directory(tmp_path / "stopped"))
    steps = stopped[-1]["version"] + LAST_STEPS
    stack.up(REPLICAS, AIS_RUN__STEPS=str(steps))
    eventually(
        lambda: set(stack.exit_codes("trainer", "collector").values()) == {0},
        TRAINING_SECONDS,
        f"trainer and collector have ended without error after {steps} steps",
    )
    finished = stack.run_directory(tmp_path / "finished")
    assert problems_of(finished, steps, RunSettings().groups_per_batch) == []
    ledger = ledger_of(finished)
    assert ledger[: len(stopped)] == stopped
    assert {commit["incarnation"] for commit in ledger} == {1, 2, 3}
    assert (finished / "model" / "config.json").is_file()


def ledger_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "ledger.jsonl").read_text().splitlines()]
