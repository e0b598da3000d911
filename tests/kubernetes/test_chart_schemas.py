"""What Helm renders is valid by the API of Kubernetes, and wrong values are refused before anything is installed."""

from __future__ import annotations

import kubernetes_validate
import pytest
import yaml

from tests.support.charts import CHART, SETS, call, of_kind, rendered

pytestmark = pytest.mark.helm

VERSIONS = ("1.33", "1.35", "1.37")
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
"""Kinds that are not Kubernetes' own: of the Prometheus operator and of KEDA."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", SETS)
def test_the_api_server_would_take_every_object(values: str, version: str) -> None:
    objects = rendered(SETS[values], version)
    assert len(objects) > 15
    for one in objects:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


def test_the_chart_as_it_is_has_no_fault_that_helm_knows() -> None:
    done = call("lint", str(CHART), "--strict", *SETS["cpu-demo"])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("rollout.replica=3", "rollout"),
        ("rollout.replicas=-1", "/rollout/replicas"),
        ("rollout.environment.AIS_STEPS=3", "/rollout/environment"),
        ("run.environment.AIS_RUN__STEPS=3", "/run/environment/AIS_RUN__STEPS"),  # a number, not text
        ("redis.address=redis://queue", "/redis/address"),
        ("runs.accessMode=ReadOnlyMany", "/runs/accessMode"),
        ("temporaryMemory=much", "/temporaryMemory"),
        ("run.example=", "set run.example, or run.settings"),
    ],
)
def test_a_wrong_value_is_told_by_its_name(wrong: str, told: str) -> None:
    done = call("template", "run", str(CHART), *SETS["cpu-demo"], "--set", wrong)
    assert done.returncode != 0
    assert told in done.stderr


def test_a_server_of_ones_own_takes_the_place_of_the_small_one() -> None:
    own = (*SETS["cpu-demo"], "--set", "redis.address=queue.example:6380")
    objects = rendered(own)
    assert "redis" not in of_kind(objects, "StatefulSet")
    assert "redis" not in of_kind(objects, "NetworkPolicy")
    text = yaml.safe_dump_all(objects)
    assert "rediss://trainer@queue.example:6380/0" in text
    assert "run-redis" not in text
