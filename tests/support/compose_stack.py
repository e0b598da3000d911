"""A stack of docker-compose.yml on a real Docker engine, for the tests that ask for one."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from tenacity import RetryError, Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

IMAGE_TAG = "test"
BUILD_SECONDS = 1800
START_SECONDS = 600
STOP_SECONDS = 180

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
    """A compose project of its own: names, volumes, ports are nobody else's. Its settings lie in a file like .env."""

    def __init__(
        self, command: Sequence[str], repository: Path, services: Sequence[str], settings: Path, **values: str
    ) -> None:
        self.services = services
        self._command = (*command, "--env-file", str(settings))
        self._repository = repository
        self._settings = settings
        self._environment = os.environ | {"COMPOSE_PROJECT_NAME": f"ais-test-{os.getpid()}", "DOCKER_BUILDKIT": "0"}
        self._values = {
            "AIS_ENV_FILE": str(settings),
            "AIS_IMAGE_TAG": IMAGE_TAG,
            "AIS_BUILD_NETWORK": "host",
            "PROMETHEUS_PORT": "0",  # a free one
        }
        self.set(**values)

    def set(self, **values: str) -> None:
        """Changes settings, as somebody does who edits .env."""
        self._values |= values
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in self._values.items()))

    def compose(self, *arguments: str, timeout: float = 120) -> str:
        """Output of a compose command; fails with all that it said when it does not succeed."""
        return self._succeed([*self._command, *arguments], timeout)

    def docker(self, *arguments: str, timeout: float = 120) -> str:
        """The same of a docker command."""
        return self._succeed(["docker", *arguments], timeout)

    def prepare(self, example: str) -> subprocess.CompletedProcess[str]:
        """What `prepare` does with an example, without anything else running."""
        command = [
            *self._command,
            "run",
            "--rm",
            "--no-deps",
            "-T",
            "-e",
            f"AIS_RUN__NAME={example}-prepared",
            "prepare",
        ]
        return self._run(command, 300, AIS_EXAMPLE=example)

    def _succeed(self, command: Sequence[str], timeout: float) -> str:
        done = self._run(command, timeout)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
        return done.stdout

    def _run(self, command: Sequence[str], timeout: float, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self._repository, env=self._environment | more, capture_output=True, text=True, timeout=timeout
        )

    def up(self, replicas: int) -> None:
        """Starts what does not run, with that many replicas."""
        self.compose("up", "--detach", "--scale", f"rollout={replicas}", *self.services, timeout=START_SECONDS)

    @cached_property
    def _prometheus_address(self) -> str:
        return self.compose("port", "prometheus", "9090").strip()

    def prometheus(self, path: str, **parameters: str) -> Any:
        """What Prometheus's API answers."""
        answer = httpx.get(f"http://{self._prometheus_address}/api/v1/{path}", params=parameters, timeout=10)
        answer.raise_for_status()
        return answer.json()["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        """All that an expression gives now. NaN is data: the quantile of what has not happened yet."""
        series: list[dict[str, Any]] = self.prometheus("query", query=expression)["result"]
        return series

    def query(self, expression: str) -> list[dict[str, str]]:
        """Labels of every series for which an expression gives a finite number now."""
        return [one["metric"] for one in self.series(expression) if math.isfinite(float(one["value"][1]))]

    def value(self, expression: str) -> float:
        """The number that an expression without labels gives now; NaN while there is none."""
        series = self.series(expression)
        return float(series[0]["value"][1]) if series else math.nan

    def up_targets(self) -> list[str]:
        """Job of every target that Prometheus reaches."""
        targets = self.prometheus("targets", state="active")["activeTargets"]
        return sorted(target["labels"]["job"] for target in targets if target["health"] == "up")

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """What the engine knows of the containers of some services, of all when none is named; stopped ones too."""
        containers: list[dict[str, Any]] = json.loads(self.docker("inspect", *self._ids(*services)))
        return containers

    def _ids(self, *services: str) -> list[str]:
        """From the engine, which answers at once: docker-compose takes long to start, and the tests ask often."""
        chosen = [
            f"label=com.docker.compose.project={self._environment['COMPOSE_PROJECT_NAME']}",
            "label=com.docker.compose.oneoff=False",
        ]
        filters = [part for one in chosen for part in ("--filter", one)]
        shown = '{{.ID}} {{.Label "com.docker.compose.service"}}'
        listed = (line.split() for line in self.docker("ps", "--all", *filters, "--format", shown).splitlines())
        return [container for container, service in listed if not services or service in services]

    def starts(self) -> Mapping[str, str]:
        """When each container that still runs was started, by its id."""
        return {one["Id"]: one["State"]["StartedAt"] for one in self.containers() if one["State"]["Running"]}

    def exit_codes(self, *services: str) -> dict[str, int | None]:
        """Exit code of every container, by its service and number; None while it runs."""
        states = {
            f"{labels['com.docker.compose.service']}-{labels['com.docker.compose.container-number']}": one["State"]
            for one in self.containers(*services)
            for labels in (one["Config"]["Labels"],)
        }
        return {name: state["ExitCode"] if state["Status"] == "exited" else None for name, state in states.items()}

    def trained(self) -> bool:
        """Whether trainer and collector have ended without error."""
        return set(self.exit_codes("trainer", "collector").values()) == {0}

    def kill(self, service: str) -> None:
        """`docker kill` of a service's first container."""
        self.docker("kill", self.containers(service)[0]["Id"])

    def crash(self, service: str) -> None:
        """Kills the first process of a service's only container, as a crash would.

        The kernel ignores a SIGKILL that comes from inside the container, and after `docker kill` an engine does not
        restart it: that is taken for the wish of somebody. So the signal comes from the host's processes.
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


@contextmanager
def stack_of(
    request: pytest.FixtureRequest,
    repository: Path,
    services: Sequence[str],
    settings: Path,
    *files: str,
    build: Sequence[str] = ("rollout",),
    **values: str,
) -> Iterator[Stack]:
    """A stack whose images are built, nothing running yet; it is taken down with the context."""
    if "compose" not in request.config.getoption("markexpr"):
        pytest.skip("brings up the whole deployment: ask for it with -m compose, or make test-compose")
    if reason := missing_prerequisite():
        if os.environ.get("AIS_REQUIRE_DOCKER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    command = [*(compose_command() or []), *(part for file in files for part in ("-f", file))]
    stack = Stack(command, repository, services, settings, **values)
    try:
        stack.compose("build", *build, timeout=BUILD_SECONDS)
        yield stack
    finally:
        print(stack.compose("logs", "--no-color", "--tail", "50", *(one for one in services if one != "prometheus")))
        stack.compose("down", "--volumes", "--remove-orphans", timeout=STOP_SECONDS)


def ledger_of(directory: Path) -> list[dict[str, Any]]:
    """What each commit of a run consumed."""
    return [json.loads(line) for line in (directory / "ledger.jsonl").read_text().splitlines()]
