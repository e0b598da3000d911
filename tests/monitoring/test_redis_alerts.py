"""The exporter of Redis, started as compose starts it, at a real server with the users of `ais secrets`: it may read
what alerts and panels ask for and no more, and those alerts fire on real faults."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis.exceptions import NoPermissionError

from ais.issuing import EXPORTER
from ais.runtime.security.certificates import AUTHORITY, CERTIFICATE, KEY
from ais.runtime.security.roles import Role
from ais.runtime.security.tokens import token_path
from tests.support.access.deployment import secrets
from tests.support.alarms.hurried import Hurry
from tests.support.alarms.redis_faults import FAULTS, Exported, exported
from tests.support.monitoring.dashboards import expressions
from tests.support.monitoring.prometheus import RULES, Prometheus, rules, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(300)]

METRIC = re.compile(r"(?<![\w:])redis_\w+")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    with exported(tmp_path_factory.mktemp("closed"), scraped_by_tls=True) as one:
        yield one


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Exported, Prometheus]]:
    directory = tmp_path_factory.mktemp("watched")
    hurry = Hurry()
    with (
        exported(directory, scraped_by_tls=False) as one,
        running(
            directory,
            {EXPORTER: [one.address]},
            token_path(secrets() / "prometheus", Role.METRICS),
            hurry.rules(RULES, directory),
            "1s",
        ) as prometheus,
    ):
        eventually(lambda: prometheus.query("redis_up == 1"), 60)
        yield one, prometheus


def trusting(certificates: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(secrets() / "prometheus" / AUTHORITY))
    if certificates:
        context.load_cert_chain(certificates / CERTIFICATE, certificates / KEY)
    return context


def page(one: Exported, certificates: Path | None) -> str:
    with httpx.Client(verify=trusting(certificates)) as client:
        url = f"https://{one.address}/metrics"
        return client.get(url, extensions={"sni_hostname": EXPORTER}).text


def test_prometheus_reads_every_metric_that_alerts_and_panels_are_made_of(closed: Exported) -> None:
    asked = [*expressions().values(), *(rule["expr"] for rule in rules())]
    named = {name for expression in asked for name in METRIC.findall(expression)}
    assert "redis_latency_spike_last" in named
    with closed.client() as client:
        client.xadd("ais:demo:events", {"kind": "x" * 5_000_000})  # which takes a millisecond
    eventually(lambda: named <= set(METRIC.findall(page(closed, secrets() / "prometheus"))), 60)


def test_who_has_no_certificate_is_shown_nothing(closed: Exported) -> None:
    eventually(lambda: page(closed, secrets() / "prometheus"), 60)
    with pytest.raises(httpx.TransportError):
        page(closed, None)


@pytest.mark.parametrize(
    "command",
    [("GET", "ais:demo:identity"), ("XLEN", "ais:demo:groups"), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("FLUSHALL",)],
)
def test_the_exporter_reads_nothing_of_a_run_and_changes_nothing(command: tuple[str, ...], closed: Exported) -> None:
    with closed.client(EXPORTER) as client:
        eventually(lambda: client.info("memory"), 20)
        with pytest.raises(NoPermissionError):
            client.execute_command(*command)


@pytest.mark.parametrize("alert", FAULTS)
def test_an_alert_about_redis_fires_when_that_goes_wrong(alert: str, watched: tuple[Exported, Prometheus]) -> None:
    one, prometheus = watched
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    assert prometheus.query(firing) == []
    FAULTS[alert](one)
    eventually(lambda: prometheus.query(firing), 90)
