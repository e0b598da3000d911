"""A real Prometheus beside a real, small, healthy run: what it scrapes is clean, and every expression is answered."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest

from ais.runtime.security.keyring import TOKENS
from ais.runtime.security.roles import Role
from tests.support.access import bearer
from tests.support.monitoring.dashboards import NOT_IN_THE_DEMO, expressions
from tests.support.monitoring.prometheus import Prometheus, promtool, rules, running
from tests.support.runs import EXAMPLES, Run, started

pytestmark = [pytest.mark.prometheus, pytest.mark.slow, pytest.mark.timeout(900)]

NAME = re.compile(r"(?<![\w:])(?:ais|process)_\w+(?![\w:])")
"""A metric of a service; recorded ones have colons."""
REPLICAS = 2
STEPS = 8
"""Trained before Prometheus is asked."""


@dataclass(frozen=True)
class Watched:
    """A run that Prometheus has watched for `STEPS` steps, and what its services showed."""

    prometheus: Prometheus
    pages: Mapping[str, str]
    """What `/metrics` of each service gave, as text."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("watched")
    settings = {"run.steps": 100_000, "rollout.replicas": REPLICAS, "trainer.checkpoints.every_steps": 2}
    with started(EXAMPLES / "sort16" / "config.toml", directory, settings) as run:
        addresses: dict[str, str] = {}
        run.until(lambda: addresses.update(found_in(run)) or len(addresses) == REPLICAS + 2)
        jobs = {
            job: [address for name, address in sorted(addresses.items()) if name.startswith(job)]
            for job in ("rollout", "collector", "trainer")
        }
        token = next((run.directory / TOKENS).rglob("metrics.token"))
        with running(directory, jobs, token) as prometheus:
            eventually(lambda: prometheus.query(f"ais_policy_version >= {STEPS}"), "the run goes on", 600)
            eventually(lambda: len(prometheus.query("up == 1")) == REPLICAS + 2, "every service is scraped", 60)
            headers = bearer(Role.METRICS, run.directory / TOKENS)
            pages = {
                name: httpx.get(f"http://{address}/metrics", headers=headers).text
                for name, address in addresses.items()
            }
            yield Watched(prometheus, pages)


def found_in(run: Run) -> dict[str, str]:
    """The address of each service whose metrics the run has told, by its name."""
    return {name: urlsplit(url).netloc for name, url in re.findall(r"(\S+): metrics at (\S+)", run.output)}


def eventually(condition: Callable[[], object], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.2)


@pytest.mark.parametrize("service", ["trainer", "collector", "rollout-0", "rollout-1"])
def test_promtool_has_nothing_to_say_of_what_a_service_shows(service: str, watched: Watched) -> None:
    done = promtool("check", "metrics", text=watched.pages[service])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_expression_of_the_dashboards_returns_data(watched: Watched) -> None:
    empty = []
    for place, expression in expressions().items():
        if any(name in expression for name in NOT_IN_THE_DEMO):
            continue
        try:
            eventually(lambda expression=expression: watched.prometheus.query(expression), place, 30)
        except AssertionError:
            empty.append(f"{place}: {expression}")
    assert empty == []


def test_every_recording_rule_returns_data(watched: Watched) -> None:
    for rule in rules():
        if "record" in rule:
            name = rule["record"]
            eventually(lambda name=name: watched.prometheus.query(name), name, 60)
    assert watched.prometheus.unhealthy_rules() == []


def test_no_alert_fires_or_is_about_to_while_the_run_is_in_order(watched: Watched) -> None:
    assert watched.prometheus.query("ALERTS") == []
    for rule in rules():
        if "alert" in rule:
            assert watched.prometheus.query(rule["expr"]) == [], rule["alert"]


def test_every_metric_of_an_alert_is_there(watched: Watched) -> None:
    """An expression about a metric that nobody exposes is silent for ever."""
    named = {name for rule in rules() if "alert" in rule for name in NAME.findall(rule["expr"])}
    missing = [name for name in sorted(named) if not watched.prometheus.query(f'{{__name__="{name}"}}')]
    assert set(missing) <= NOT_IN_THE_DEMO.keys()


def test_what_is_silent_here_is_silent_and_has_a_reason(watched: Watched) -> None:
    for name, reason in NOT_IN_THE_DEMO.items():
        assert reason
        assert watched.prometheus.query(name) == [], name
