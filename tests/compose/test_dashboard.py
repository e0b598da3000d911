"""The Grafana files, checked without Grafana: they are what the code makes, hang together, and ask for what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ais.catalogue import services
from tests.support.monitoring.dashboards import dashboards, expressions, panels
from tests.support.monitoring.prometheus import ROOT, rules

GRAFANA_COLUMNS = 24
METRIC = re.compile(r"(?<![\w:])ais_[a-z0-9_]+(?![\w:])")
RECORDED = re.compile(r"\b[a-z0-9_]+:[a-z0-9_]+:[a-z0-9_]+\b")
NAMES = ("alerts", "fleet", "mismatch", "queue", "training")


@pytest.fixture(params=NAMES)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dashboards()[request.param]


def test_the_files_are_what_the_code_makes() -> None:
    command = [sys.executable, str(ROOT / "deploy/grafana/dashboards.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tuple(dashboards()) == NAMES


def test_every_panel_has_a_unit_a_description_thresholds_a_runbook_and_a_query(dashboard: dict[str, Any]) -> None:
    assert len({panel["title"] for panel in panels(dashboard)}) == len(panels(dashboard))
    alerts = {rule["alert"].lower() for rule in rules() if "alert" in rule}
    for panel in panels(dashboard):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        assert defaults["thresholds"]["steps"], panel["title"]
        assert panel["description"], panel["title"]
        assert panel["links"][0]["url"].partition("#")[2] in alerts, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0, panel["title"]


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
    for panel in panels(dashboard):
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


def test_the_dashboards_ask_only_for_metrics_that_services_or_rules_make() -> None:
    described = [one for group in services().values() for one in group]
    known = {one.name for one in described if one.kind != "histogram"} | {
        f"{one.name}{suffix}"
        for one in described
        if one.kind == "histogram"
        for suffix in ("_bucket", "_sum", "_count")
    }
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for place, expression in expressions().items():
        assert set(METRIC.findall(expression)) <= known, place
        assert set(RECORDED.findall(expression)) <= recorded, place
