"""Draws series as SVG for an HTML page: text stays text, colours are the page's own, light or dark."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

WIDTH_INCHES, WIDE_INCHES, HEIGHT_INCHES = 5.6, 10.0, 2.6
SMOOTHING_STEPS = 5
"""The curve through noisy values is the mean over at most this many steps before and after each."""
STEPS_PER_SMOOTHING = 20
"""A run of this many steps is smoothed over one to each side, and so on: a short run is shown as it is."""
MOST_HOVER_STEPS = 1000
"""Steps whose values a plot shows under the pointer; of a longer run every second, third, ... step."""

STEP = "step"
COLOURS = tuple(f"#f000{number:02x}" for number in range(1, 11))
"""Stand for the page's series colours: each becomes a CSS variable, `--series-1` and so on."""
_INK, _GRID = "#f000fe", "#f000fd"
_VARIABLES = {colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS, start=1)} | {
    _INK: "var(--ink-soft)",
    _GRID: "var(--grid)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.01,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "lines.linewidth": 1.6,
}


class Kind(Enum):
    """How a series is drawn."""

    CURVE = "curve"
    """A smooth line over the raw values."""
    POINTS = "points"
    """Points with error bars."""
    AREA = "area"
    """Stacked on the areas before it."""
    LIMIT = "limit"
    """A dashed line, not among the values that are read under the pointer."""


@dataclass(frozen=True)
class Series:
    """One quantity over the steps of a run; NaN where a step has none."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    kind: Kind = Kind.CURVE
    errors: Sequence[float] | None = None
    across_errors: Sequence[float] | None = None
    """Points may have errors along the horizontal axis, too."""

    @property
    def drawn(self) -> bool:
        """Whether there is any value to draw."""
        return any(math.isfinite(value) for value in self.values)


@dataclass(frozen=True)
class Scale:
    """The axes."""

    unit: str = ""
    across: str = STEP
    """What the horizontal axis shows; where it is not the step, no values are shown under the pointer."""
    from_zero: bool = False
    share: bool = False
    """Shows all of 0 to 1 where every value lies there."""
    counted: bool = False
    """Ticks only at whole numbers."""


PLAIN = Scale()
"""As matplotlib chooses it."""


@dataclass(frozen=True)
class Rendered:
    """A plot ready for the page."""

    svg: str
    legend: tuple[tuple[str, str], ...]
    """CSS colour and label of each series; empty when there is only one."""
    hover: Mapping[str, Any]
    """What the page's script shows values from: `steps`, `series` as pairs of label and values, the `first` and `last`
    step on the axis, and where these are, `left` and `right`, as shares of the plot's width. Empty: it shows none."""


def render(title: str, series: Sequence[Series], scale: Scale, name: str, wide: bool = False) -> Rendered | None:
    """The plot as an `<svg>` element whose ids begin with `name`; None when there is nothing to draw.

    Raises ValueError for more series than there are colours.
    """
    if not (series := [one for one in series if one.drawn]):
        return None
    coloured = list(zip(_colours(len(series)), series, strict=True))
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDE_INCHES if wide else WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, coloured)
        _scale(axes, scale)
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        legend = tuple((_VARIABLES[colour], one.label) for colour, one in coloured)
        hover = _hover(axes, series) if scale.across == STEP else {}
        return Rendered(_for_page(buffer.getvalue(), title, name), legend if len(legend) > 1 else (), hover)


def smooth(values: Sequence[float]) -> list[float]:
    """Mean over the near values that are numbers; NaN where there is none. A short run's values stay as they are."""
    reach = min(SMOOTHING_STEPS, len(values) // STEPS_PER_SMOOTHING)
    means = []
    for index in range(len(values)):
        window = [value for value in values[max(0, index - reach) : index + reach + 1] if not math.isnan(value)]
        means.append(sum(window) / len(window) if window else math.nan)
    return means


def _colours(count: int) -> tuple[str, ...]:
    if count > len(COLOURS):
        raise ValueError(f"a plot has {count} series and the page {len(COLOURS)} colours: two would look the same")
    return COLOURS[:count]


def _draw(axes: Axes, coloured: Sequence[tuple[str, Series]]) -> None:
    areas = [(colour, one) for colour, one in coloured if one.kind is Kind.AREA]
    if areas:
        values = [smooth(one.values) for _colour, one in areas]
        axes.stackplot(areas[0][1].steps, values, colors=[colour for colour, _one in areas], linewidth=0, alpha=0.85)
    for colour, one in coloured:
        if one.kind is Kind.CURVE:
            smoothed = smooth(one.values)
            if smoothed != list(one.values):
                axes.plot(one.steps, one.values, color=colour, alpha=0.3, linewidth=0.9)
            axes.plot(one.steps, smoothed, color=colour, marker="." if len(one.steps) <= STEPS_PER_SMOOTHING else "")
        elif one.kind is Kind.LIMIT:
            axes.plot(one.steps, one.values, color=colour, linestyle="--", linewidth=1.2)
        elif one.kind is Kind.POINTS:
            axes.errorbar(
                one.steps,
                one.values,
                one.errors,
                one.across_errors,
                color=colour,
                marker="o",
                markersize=4,
                capsize=2.5,
            )


def _scale(axes: Axes, scale: Scale) -> None:
    axes.set_xlabel(scale.across)
    axes.set_ylabel(scale.unit)
    if scale.across == STEP:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if scale.counted:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if scale.share and not _beyond(axes.dataLim.intervaly):
        axes.set_ylim(-0.02, 1.05)
    elif scale.from_zero:
        axes.set_ylim(bottom=0.0)


def _beyond(interval: Sequence[float]) -> bool:
    """A reward need not be a share: one outside of 0 and 1 must not fall off the plot."""
    return min(interval) < 0.0 or max(interval) > 1.0


def _hover(axes: Axes, series: Sequence[Series]) -> dict[str, Any]:
    series = [one for one in series if one.kind is not Kind.LIMIT]
    steps = sorted({step for one in series for step in one.steps})
    steps = steps[:: -(-len(steps) // MOST_HOVER_STEPS)]
    found = [(one.label, dict(zip(one.steps, one.values, strict=True))) for one in series]
    place, (first, last) = axes.get_position(), axes.get_xlim()
    return {
        "steps": [int(step) for step in steps],
        "series": [(label, [_written(values.get(step, math.nan)) for step in steps]) for label, values in found],
        "first": round(first, 4),
        "last": round(last, 4),
        "left": round(place.x0, 4),
        "right": round(place.x1, 4),
    }


def _written(value: float) -> str | None:
    return f"{value:.4g}" if math.isfinite(value) else None


def _for_page(svg: str, title: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    head, _, rest = svg.partition(">")
    return f'{head} role="img" aria-labelledby="{name}-title"><title id="{name}-title">{escape(title)}</title>{rest}'
