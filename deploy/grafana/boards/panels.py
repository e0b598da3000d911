"""How this project's dashboards are built: every panel has a unit, a description, thresholds and a link to the runbook.

What a panel says of its metrics is what the catalogue says of them: meaning, and what to do when they look wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import VisibilityMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

from ais.catalogue import services

SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
METRIC = re.compile(r"(?<![\w:])ais_\w+(?![\w:])")
SUFFIXES = ("_bucket", "_sum", "_count")
JOINED = "ais_run_info"
"""Every expression names it, to choose the run."""
CATALOGUE = {one.name: one for described in services().values() for one in described}


@dataclass(frozen=True)
class Query:
    """One expression of a panel, and what its series are called."""

    expression: str
    legend: str = "__auto"


@dataclass(frozen=True)
class Panel:
    """What differs from panel to panel."""

    title: str
    queries: Sequence[Query]
    unit: str
    alert: str
    """Section of the runbook to go to from here."""
    warn: float | None = None
    """From here on it looks wrong; None: no level does by itself."""
    below: bool = False
    """It looks wrong below `warn`."""
    kind: str = "timeseries"
    text: str = ""
    """What the panel is for, where its metrics do not say it."""
    width: int = 8
    maximum: float | None = None


@dataclass(frozen=True)
class Row:
    """A step of the story, from symptom to cause."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    name: str
    title: str
    text: str
    rows: Sequence[Row]
    replicas: bool = field(default=False)
    """Whether replicas can be chosen."""


def built(board: Board) -> Any:
    """The dashboard as Grafana reads it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"ais-{board.name}")
        .description(board.text)
        .tags(["ais"])
        .readonly()
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(dashboard.DashboardLink("AIS").type(DashboardLinkType.DASHBOARDS).tags(["ais"]).keep_time(True))
        .with_variable(_variable("run", "Run", "label_values(ais_run_info, run)"))
    )
    if board.replicas:
        made.with_variable(_variable("replica", "Replica", "label_values(ais_rollout_policy_version, instance)"))
    made.with_variable(dashboard.TextBoxVariable("docs").label("Documentation").default_value("docs"))
    for name, color, expression in (
        ("Checkpoints", "blue", "changes(ais_trainer_committed_version[1m]) > 0"),
        ("Trainers that started", "orange", "changes(ais_trainer_incarnation[1m]) > 0"),
        ("Alerts", "red", 'ALERTS{alertname=~"Ais.*",alertstate="firing"}'),
    ):
        made.annotation(
            dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color).expr(expression)
        )
    for row in board.rows:
        made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made.with_panel(_panel(panel))
    return made.build()


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": name})
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def _panel(panel: Panel) -> Any:
    kinds: dict[str, Any] = {"timeseries": timeseries.Panel, "stat": stat.Panel, "bargauge": bargauge.Panel}
    made = (
        kinds[panel.kind]()
        .title(panel.title)
        .description(_description(panel))
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(4 if panel.kind == "stat" else 8)
        .thresholds(_thresholds(panel))
        .links(
            [dashboard.DashboardLink("Runbook").url(f"${{docs}}/runbook.md#{panel.alert.lower()}").target_blank(True)]
        )
    )
    if panel.maximum is not None:
        made.min(0).max(panel.maximum)
    if panel.kind == "timeseries":
        made.show_points(VisibilityMode.NEVER).fill_opacity(8).span_nulls(False)
        if panel.warn is not None:
            made.thresholds_style(common.GraphThresholdsStyleConfig().mode("dashed"))
    for place, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).datasource(SOURCE)
        if panel.kind != "timeseries":
            target.instant()
        made.with_target(target.ref_id(chr(ord("A") + place)))
    return made


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    first, then = ("red", "green") if panel.below else ("green", "red")
    steps = [Threshold(value=None, color=first if panel.warn is not None else "green")]
    if panel.warn is not None:
        steps.append(Threshold(value=panel.warn, color=then))
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _description(panel: Panel) -> str:
    """What the panel is for, and what the catalogue says of its metrics."""
    parts = [panel.text] if panel.text else []
    named = [name for query in panel.queries for name in METRIC.findall(query.expression) if name != JOINED]
    for name in dict.fromkeys(map(_metric, named)):
        described = CATALOGUE[name]
        parts.append(f"**{name}**: {described.meaning}\n\n*When it looks wrong:* {described.cure}")
    return "\n\n".join(parts)


def _metric(series: str) -> str:
    """The metric that a series is of: a histogram has three."""
    return next((series.removesuffix(one) for one in SUFFIXES if series.removesuffix(one) in CATALOGUE), series)
