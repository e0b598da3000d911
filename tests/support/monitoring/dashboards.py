"""The committed dashboards, as Grafana reads them, and their expressions, as it asks when nothing is chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.support.monitoring.prometheus import ROOT

FOLDER = ROOT / "deploy/grafana/dashboards"
FILLED = {"$__rate_interval": "1m", "$run": ".*", "$replica": ".*"}
NOT_IN_THE_DEMO: Mapping[str, str] = {
    "ais_evaluation_component_mean": "the demo is not evaluated while it trains",
    "ais_evaluation_reward_mean": "the demo is not evaluated while it trains",
    "ais_evaluation_pass_share": "the demo is not evaluated while it trains",
    "redis_memory_used_bytes": "a run on one machine has no exporter of its Redis",
    "redis_memory_max_bytes": "a run on one machine has no exporter of its Redis",
    "redis_latency_spike_duration_seconds": "a run on one machine has no exporter of its Redis",
    "ais_certificate_not_after_timestamp_seconds": "a run on one machine has no certificates",
}
"""Metrics of the dashboards without series in a run of the demo, and why rightly so. NaN is data."""


def dashboards() -> dict[str, dict[str, Any]]:
    """By the name of the file."""
    return {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(FOLDER.glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels of all rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every expression by where it stands, and of those that choose annotations."""
    found = {}
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                found[f"{name}: {panel['title']}: {target['refId']}"] = filled(target["expr"])
    return found


def filled(expression: str) -> str:
    for variable, value in FILLED.items():
        expression = expression.replace(variable, value)
    return expression
