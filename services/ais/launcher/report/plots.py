"""Plots of a run as SVG for an HTML page: text stays text, colours are the page's own, light or dark."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ais.launcher.report.results import BF16, Results

WIDTH_INCHES, WIDE_INCHES, HEIGHT_INCHES = 5.6, 10.0, 2.6
SMOOTHING_STEPS = 5
"""The curve drawn through noisy values is the mean over this many steps before and after each."""

SERIES = ("#f00001", "#f00002", "#f00003", "#f00004", "#f00005", "#f00006", "#f00007")
"""Stand for the page's series colours: each becomes a CSS variable, `--series-1` and so on."""
_INK, _GRID = "#f000fe", "#f000fd"
_VARIABLES = {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)} | {
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


@dataclass(frozen=True)
class Plot:
    """One figure of the report."""

    title: str
    caption: str
    """How to read it."""
    draw: Callable[[Axes, Results], None]
    unit: str = ""
    """Of the vertical axis."""
    wide: bool = False
    """Takes a row of the page for itself."""


@dataclass(frozen=True)
class Rendered:
    """A plot ready for the page."""

    svg: str
    legend: tuple[tuple[str, str], ...]
    """CSS colour and label of each series; empty when there is only one."""


def render(plot: Plot, results: Results, name: str) -> Rendered | None:
    """The plot as an `<svg>` element whose ids begin with `name`; None when the run has none of its data."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDE_INCHES if plot.wide else WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes = figure.add_subplot()
        plot.draw(axes, results)
        if not axes.has_data():
            return None
        axes.set_xlabel("step")
        axes.set_ylabel(plot.unit)
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        legend = _legend(axes)
    return Rendered(_for_page(buffer.getvalue(), plot.title, name), legend if len(legend) > 1 else ())


def _legend(axes: Axes) -> tuple[tuple[str, str], ...]:
    """In HTML, where it wraps, rather than in the plot."""
    entries = []
    handle: Any  # a line, error bars or a filled area
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        artist = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
        colour = artist.get_color() if isinstance(artist, Line2D) else artist.get_facecolor()[0]
        entries.append((_VARIABLES[to_hex(colour)], str(label)))
    return tuple(entries)


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


def _reward(axes: Axes, results: Results) -> None:
    steps, reward = results.column("step"), results.column("reward_mean")
    if steps:
        axes.plot(steps, reward, color=SERIES[2], alpha=0.3, linewidth=0.9)
        axes.plot(steps, smooth(reward), color=SERIES[2], label="training batches (as sampled)")
    for colour, (precision, scores) in zip(SERIES, results.evaluations.items(), strict=False):
        axes.errorbar(
            [score.step for score in scores],
            [score.reward_mean for score in scores],
            yerr=[score.reward_standard_error for score in scores],
            color=colour,
            marker="o" if precision == BF16 else "s",
            markersize=4,
            capsize=2.5,
            label="BF16 policy, held out" if precision == BF16 else "rollout policy, held out",
        )


def _curves(*curves: tuple[str, str]) -> Callable[[Axes, Results], None]:
    """Draws step quantities, each smoothed over its raw course: pairs of key and label."""

    def draw(axes: Axes, results: Results) -> None:
        steps = results.column("step")
        for colour, (key, label) in zip(SERIES, curves, strict=False):
            values = results.column(key)
            if any(not math.isnan(value) for value in values):
                axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.9)
                axes.plot(steps, smooth(values), color=colour, label=label)

    return draw


def _share(draw: Callable[[Axes, Results], None]) -> Callable[[Axes, Results], None]:
    """For quantities between 0 and 1."""

    def bounded(axes: Axes, results: Results) -> None:
        draw(axes, results)
        axes.set_ylim(-0.02, 1.05)

    return bounded


def _from_zero(draw: Callable[[Axes, Results], None]) -> Callable[[Axes, Results], None]:
    def bounded(axes: Axes, results: Results) -> None:
        draw(axes, results)
        axes.set_ylim(bottom=0.0)

    return bounded


def _phases(axes: Axes, results: Results) -> None:
    prefix = "phase_seconds."
    names = [key for key in (results.steps[-1] if results.steps else ()) if key.startswith(prefix)]
    if not names:
        return
    milliseconds = [[1000 * value for value in smooth(results.column(name))] for name in names]
    labels = [name.removeprefix(prefix).replace("_", " ") for name in names]
    axes.stackplot(results.column("step"), milliseconds, labels=labels, colors=SERIES, linewidth=0, alpha=0.85)


def smooth(values: Sequence[float]) -> list[float]:
    """Mean over the values within `SMOOTHING_STEPS` that are numbers; NaN where there is none."""
    means = []
    for index in range(len(values)):
        near = values[max(0, index - SMOOTHING_STEPS) : index + SMOOTHING_STEPS + 1]
        window = [value for value in near if not math.isnan(value)]
        means.append(sum(window) / len(window) if window else math.nan)
    return means


PLOTS = (
    Plot(
        "Reward",
        "Held-out points are the mean over prompts, with its standard error. The rollout policy is the trained one in "
        "the number formats it is sampled in: correction trades one curve against the other, so both are shown.",
        _share(_reward),
        wide=True,
    ),
    Plot(
        "Mixing coefficient alpha",
        "0: the gradient is not corrected for the mismatch of rollout and trainer; 1: it is fully importance-weighted.",
        _share(_curves(("alpha", "alpha"))),
    ),
    Plot(
        "Effective sample size",
        "Share of the samples that the importance weights leave effective; 1 is no mismatch.",
        _curves(
            ("ess_ratio_raw", "token, raw"),
            ("ess_ratio_applied", "token, applied"),
            ("sequence_ess_ratio_raw", "sequence, raw"),
            ("sequence_ess_ratio_applied", "sequence, applied"),
        ),
    ),
    Plot(
        "Mean absolute log-ratio",
        "How far the log-probs of rollout and trainer are apart on a sampled token.",
        _from_zero(_curves(("log_ratio_abs_mean", "mean |log-ratio|"))),
        "nats",
    ),
    Plot(
        "Coefficient of variation of the ratios",
        "Relative spread of the importance ratios: what variance full weighting would add.",
        _from_zero(_curves(("ratio_cv", "CV"))),
    ),
    Plot(
        "KL divergence, rollout from trainer",
        "Estimates of KL(behaviour || proximal): k1 is unbiased and noisy, k3 is never negative.",
        _curves(("kl_k1", "k1"), ("kl_k3", "k3")),
        "nats",
    ),
    Plot(
        "Throughput",
        "Response tokens trained on, by the time of the whole step.",
        _from_zero(_curves(("tokens_per_second", "tokens/s"))),
        "tokens/s",
    ),
    Plot(
        "Where a step's time goes",
        "Wait is time without enough groups: the rollouts are slower than the trainer.",
        _phases,
        "ms",
    ),
    Plot(
        "Staleness",
        "Versions between the policy that sampled a trajectory and the policy it trained.",
        _from_zero(_curves(("staleness_mean", "mean"), ("staleness_max", "most"))),
        "versions",
    ),
    Plot(
        "Queue",
        "Groups waiting for the trainer after each batch.",
        _from_zero(_curves(("queue_depth", "groups"))),
        "groups",
    ),
    Plot(
        "Entropy of the policy",
        "At the sampled positions. A policy without entropy explores no more.",
        _from_zero(_curves(("entropy", "entropy"))),
        "nats",
    ),
    Plot(
        "Response length",
        "Mean over the batch.",
        _from_zero(_curves(("response_length_mean", "response length"))),
        "tokens",
    ),
    Plot(
        "Gradient norm",
        "Before clipping.",
        _from_zero(_curves(("gradient_norm", "gradient norm"))),
    ),
)
