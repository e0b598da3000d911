"""The Grafana files, checked without Grafana: they parse, hang together, and ask only for metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import yaml
from prometheus_client import CollectorRegistry

from ais.collector.metrics import CollectorMetrics
from ais.rollout.metrics import RolloutMetrics
from ais.runtime.metrics.registry import service_registry
from ais.trainer.metrics import TrainerMetrics

GRAFANA_COLUMNS = 24
METRIC = re.compile(r"\b(?:ais|process)_[a-z0-9_]+|\bup\b")


def sample_names(registry: CollectorRegistry) -> set[str]:
    """Every series name that the metrics of a registry can have."""
    suffixes = {
        "counter": ["_total"],
        "histogram": ["_bucket", "_sum", "_count"],
        "summary": ["_sum", "_count"],
        "info": ["_info"],
    }
    return {family.name + suffix for family in registry.collect() for suffix in suffixes.get(family.type, [""])}


def test_panels_have_unique_ids_titles_and_queries(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["expr"].strip() for target in panel["targets"]), panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]


def test_panels_fit_the_grid_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRAFANA_COLUMNS, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_every_panel_asks_the_provisioned_datasource(dashboard: dict[str, Any], datasource: dict[str, Any]) -> None:
    provisioned = {"type": datasource["type"], "uid": datasource["uid"]}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == provisioned, panel["title"]
            assert all(target["datasource"] == provisioned for target in panel["targets"]), panel["title"]


def test_grafana_finds_dashboards_and_prometheus_where_compose_puts_them(
    repository: Path, compose_file: dict[str, Any], datasource: dict[str, Any]
) -> None:
    mounts = dict(volume.split(":")[:2][::-1] for volume in compose_file["services"]["grafana"]["volumes"])
    (provider,) = yaml.safe_load((repository / "deploy/grafana/provisioning/dashboards/files.yml").read_text())[
        "providers"
    ]
    folder = repository / mounts[provider["options"]["path"]]
    home = Path(compose_file["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (folder / home.name).is_file()
    assert str(home.parent) == provider["options"]["path"]
    assert (repository / mounts["/etc/grafana/provisioning"]).is_dir()
    assert datasource["url"] == "http://prometheus:9090"


def test_the_dashboard_asks_only_for_metrics_that_the_services_expose(dashboard_queries: list[str]) -> None:
    registry = service_registry("test")
    CollectorMetrics(registry)
    RolloutMetrics(registry).watch(MagicMock())
    TrainerMetrics(registry)
    known = sample_names(registry) | {"up"}
    asked = {name for query in dashboard_queries for name in METRIC.findall(query)}
    assert len(asked) > 10
    assert asked <= known, f"no service exposes {sorted(asked - known)}"
