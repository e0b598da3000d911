"""The curves of the catalogue's plots, of one run, as a report draws them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ais.contracts.sampling import is_bf16
from ais.launcher.directory.plots import MOST_CURVES, NEAR, PLOTS, Curve, Form, Plot, Threshold
from ais.launcher.report.drawing import Kind, Scale, Series
from ais.launcher.report.results import Results

NORMAL_95 = 1.96
"""Half the width of a 95% interval, in standard errors."""

DRAWN = tuple(plot for plot in PLOTS if plot.form is not Form.BARS)


def series_of(plot: Plot, results: Results) -> list[Series]:
    """What is drawn of a run: none where it has nothing of it."""
    curves = list(_curves(plot, results))
    if plot.several and len(curves) < 2:
        return []
    steps, absent = results.column("step"), 0.0 if plot.absent_is_zero else math.nan
    kind = Kind.AREA if plot.form is Form.AREAS else Kind.CURVE
    lines = [
        Series(
            curve.label, steps, [absent if math.isnan(value) else value for value in results.column(curve.key)], kind
        )
        for curve in curves
    ]
    scores = _scores(results) if plot.scores else []
    return [*scores, *lines, *_thresholds(plot.thresholds, lines, results.settings)]


def scale_of(plot: Plot) -> Scale:
    """The axes."""
    return Scale(plot.unit, from_zero=plot.from_zero, share=plot.share, counted=plot.counted)


def _curves(plot: Plot, results: Results) -> Iterator[Curve]:
    yield from plot.curves
    for key in results.keys(plot.prefix)[:MOST_CURVES] if plot.prefix else ():
        yield Curve(key, key.removeprefix(plot.prefix).replace("_", " "))


def _scores(results: Results) -> list[Series]:
    return [
        Series(
            "BF16 policy, held out" if is_bf16(precision) else "rollout policy, held out",
            [score.step for score in scores],
            [score.reward_mean for score in scores],
            Kind.POINTS,
            [NORMAL_95 * score.reward_standard_error for score in scores],
        )
        for precision, scores in results.evaluations.items()
    ]


def _thresholds(
    thresholds: tuple[Threshold, ...], lines: list[Series], settings: Mapping[str, Any]
) -> Iterator[Series]:
    """Those that are near the values."""
    values = [value for line in lines for value in line.values if math.isfinite(value)]
    for threshold in thresholds:
        found: Any = settings
        for part in threshold.setting.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if not values or not isinstance(found, int | float):
            continue
        value, steps = found + threshold.more, lines[0].steps
        if value <= NEAR * max(values):
            yield Series(f"{threshold.label}, {value:.4g}", [steps[0], steps[-1]], [value, value], Kind.LIMIT)
