"""Rules that the compose file, the Prometheus file and the demo settings must keep with one another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ais.rollout.generation_server import STOP_GRACE_SECONDS
from ais.runtime.network.http import STOP_SECONDS
from ais.settings import load


def environment_of(compose_file: dict[str, Any], service: str) -> dict[str, str]:
    """AIS_ variables that compose gives a service, without those it only passes on."""
    given = compose_file["services"][service]["environment"]
    return {name: str(value) for name, value in given.items() if value is not None}


def test_rollout_replicas_can_be_scaled(compose_file: dict[str, Any]) -> None:
    rollout = compose_file["services"]["rollout"]
    assert "container_name" not in rollout
    assert "ports" not in rollout


def test_a_replica_that_is_scaled_away_may_drain_before_it_is_killed(
    repository: Path, compose_file: dict[str, Any]
) -> None:
    grace = float(compose_file["services"]["rollout"]["stop_grace_period"].removesuffix("s"))
    servers_end_within = STOP_SECONDS + 1 + STOP_GRACE_SECONDS
    for example in sorted((repository / "examples").glob("*/config.toml")):
        assert load(example).rollout.drain_seconds + servers_end_within < grace, example


def test_the_image_is_built_from_all_that_the_wheel_contains(repository: Path) -> None:
    wheel = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = wheel["tool"]["hatch"]["build"]["targets"]["wheel"]
    sent = {line[1:] for line in (repository / ".dockerignore").read_text(encoding="utf-8").split() if line[0] == "!"}
    assert {Path(path).parts[0] for path in (*wheel["packages"], *wheel["force-include"])} <= sent


def test_a_replica_that_has_left_is_not_started_again(compose_file: dict[str, Any]) -> None:
    assert compose_file["services"]["rollout"]["restart"] == "on-failure"  # it ends with exit code 0


def test_services_start_after_what_they_need_is_healthy(compose_file: dict[str, Any]) -> None:
    services = compose_file["services"]
    needs = {"rollout": {"redis"}, "trainer": {"redis", "rollout"}, "collector": {"redis", "trainer"}}
    for name, needed in needs.items():
        waits = services[name]["depends_on"]
        assert set(waits) == needed
        assert all(wait["condition"] == "service_healthy" for wait in waits.values())


def test_the_services_accept_the_settings_that_compose_gives_them(
    repository: Path, compose_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ("rollout", "trainer", "collector"):
        for name, value in environment_of(compose_file, service).items():
            monkeypatch.setenv(name, value)
    settings = load(repository / "examples/sort16/config.toml")
    assert settings.redis.url.get_secret_value() == "redis://redis:6379/0"
    assert settings.rollout.host == settings.trainer.http_host == settings.collector.http_host == "0.0.0.0"
    assert str(settings.run.model) == "/etc/ais/model"


def test_every_service_is_scraped_where_it_listens(
    prometheus_file: dict[str, Any], compose_file: dict[str, Any]
) -> None:
    jobs = {job["job_name"]: job for job in prometheus_file["scrape_configs"]}
    (replicas,) = jobs["rollout"]["dns_sd_configs"]
    assert replicas["names"] == ["rollout"]
    assert str(replicas["port"]) == environment_of(compose_file, "rollout")["AIS_ROLLOUT__HTTP_PORT"]
    for name in ("collector", "trainer"):
        port = environment_of(compose_file, name)[f"AIS_{name.upper()}__HTTP_PORT"]
        assert jobs[name]["static_configs"] == [{"targets": [f"{name}:{port}"]}]


def test_the_image_is_probed_where_every_service_listens(repository: Path, compose_file: dict[str, Any]) -> None:
    probe = re.search(r"http://127\.0\.0\.1:(\d+)/readyz", (repository / "deploy/Dockerfile").read_text())
    assert probe
    for name in ("rollout", "trainer", "collector"):
        assert environment_of(compose_file, name)[f"AIS_{name.upper()}__HTTP_PORT"] == probe[1]


def test_what_must_outlive_a_container_is_on_a_volume(compose_file: dict[str, Any]) -> None:
    services = compose_file["services"]
    assert "redis:/data" in services["redis"]["volumes"]
    runs = environment_of(compose_file, "trainer")["AIS_RUN__DIRECTORY"]
    assert f"runs:{runs}" in services["trainer"]["volumes"]
    assert set(compose_file["volumes"]) >= {"redis", "runs", "prometheus"}


def test_ports_are_published_on_loopback_only(compose_file: dict[str, Any]) -> None:
    for name, service in compose_file["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
