"""The plots of a comparison: the methods of one table against each other, means over their seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ais.comparison.records import Record
from ais.comparison.results.shown import name_of
from ais.comparison.results.statistics import estimate
from ais.comparison.results.summary import Row
from ais.launcher.report.drawing import COLOURS, PLAIN, Kind, Scale, Series

MOST_METHODS = len(COLOURS)
"""A plot has as many colours. Of more methods the first are drawn; the tables have all."""


@dataclass(frozen=True)
class Plot:
    """One figure."""

    name: str
    """Name of its file."""
    title: str
    caption: str
    series: Sequence[Series]
    scale: Scale = PLAIN


def plots_of(heading: str, rows: Sequence[Row], records: Sequence[Record]) -> list[Plot]:
    """The plots of one table, of which `heading` says what it is about."""
    rows = rows[:MOST_METHODS]
    cells = [(row, [record for record in records if _is_of(record, row)]) for row in rows]
    name = re.sub(r"[^A-Za-z0-9]+", "-", heading).strip("-")
    share = Scale(share=True)

    def scores(column: str) -> list[Series]:
        return [_points(name_of(row), own, column) for row, own in cells]

    def curves(column: str) -> list[Series]:
        return [_curve(name_of(row), own, column) for row, own in cells]

    found = [
        Plot(
            f"{name}-p",
            f"Held-out reward of the BF16 policy: {heading}",
            "Mean over seeds, with its 95% interval.",
            scores("p"),
            share,
        ),
        Plot(
            f"{name}-q",
            f"Held-out reward of the policy that samples: {heading}",
            "The same weights in the number format of the rollouts. A correction trades one curve against the other.",
            scores("q"),
            share,
        ),
        Plot(
            f"{name}-both",
            f"Both policies at the end: {heading}",
            "Mean of the last three evaluations, with 95% intervals. Up and to the right is better for both.",
            [_point(row) for row in rows],
            Scale("reward of the policy that samples", across="reward of the BF16 policy"),
        ),
        Plot(
            f"{name}-reward",
            f"Reward of the training batches: {heading}",
            "Mean over seeds: what exploration finds.",
            curves("reward_mean"),
            share,
        ),
        Plot(
            f"{name}-mismatch",
            f"Mean absolute log-ratio: {heading}",
            "How far the log-probs of rollout and trainer are apart on a sampled token, mean over seeds.",
            curves("log_ratio_abs_mean"),
            Scale("nats", from_zero=True),
        ),
        Plot(
            f"{name}-entropy",
            f"Entropy: {heading}",
            "Of the BF16 policy at the sampled positions, mean over seeds. A policy that is lost has none, or all.",
            curves("entropy"),
            Scale("nats", from_zero=True),
        ),
        Plot(
            f"{name}-alpha",
            f"Mixing coefficient alpha: {heading}",
            "Of the corrections that mix: 0 is uncorrected, 1 fully importance-weighted. Mean over seeds.",
            curves("alpha"),
            share,
        ),
    ]
    return [_told(plot) for plot in found if any(one.drawn for one in plot.series)]


def _told(plot: Plot) -> Plot:
    """A plot of one series has no legend: its caption says whose it is."""
    drawn = [one.label for one in plot.series if one.drawn]
    return replace(plot, caption=f"{plot.caption} {drawn[0]}.") if len(drawn) == 1 else plot


def _is_of(record: Record, row: Row) -> bool:
    place = record.place
    return (place.task, place.format, place.method, place.staleness) == (
        row.task,
        row.format,
        row.method,
        row.staleness,
    )


def _points(label: str, records: Sequence[Record], column: str) -> Series:
    means, widths, steps = [], [], []
    for step, values in _by_step(records, "evaluations", column):
        found = estimate(values)
        steps.append(step)
        means.append(found.mean)
        widths.append(0.0 if math.isnan(found.half_width) else found.half_width)
    return Series(label, steps, means, Kind.POINTS, widths)


def _curve(label: str, records: Sequence[Record], column: str) -> Series:
    pairs = _by_step(records, "steps", column)
    return Series(label, [step for step, _values in pairs], [estimate(values).mean for _step, values in pairs])


def _point(row: Row) -> Series:
    p, q = row.estimates["p_late"], row.estimates["q_late"]
    widths = [[0.0 if math.isnan(one.half_width) else one.half_width] for one in (q, p)]
    return Series(name_of(row), [p.mean], [q.mean], Kind.POINTS, *widths)


def _by_step(records: Sequence[Record], part: str, column: str) -> list[tuple[float, list[float]]]:
    """The numbers of all seeds at each step that has any."""
    found: dict[float, list[float]] = {}
    for record in records:
        table = getattr(record, part)
        for step, value in zip(table["step"], table.get(column, ()), strict=False):
            if step is not None and value is not None:
                found.setdefault(step, []).append(value)
    return sorted(found.items())
