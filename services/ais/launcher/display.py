"""What a person sees while a run goes on: one calm live display on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

TREND_WIDTH = 40
"""Characters of a trend line; each stands for an equal share of the steps done."""
BAR_WIDTH = 56
PLAIN_SECONDS = 5.0
"""Without a terminal, a progress line comes this often."""
_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Figure:
    """One quantity of the display."""

    label: str
    key: str
    """Name in the trainer's step records."""
    show: Callable[[float], str]
    ceiling: float | None = None
    """Top of its trend line; None: the greatest value so far."""


FIGURES = (
    Figure("reward", "reward_mean", "{:.2f}".format, ceiling=1.0),
    Figure("alpha", "alpha", "{:.2f}".format, ceiling=1.0),
    Figure("ESS ratio", "ess_ratio_raw", "{:.3f}".format, ceiling=1.0),
    Figure("|log-ratio|", "log_ratio_abs_mean", "{:.4f}".format),
    Figure("truncated", "truncated_share", "{:.0%}".format, ceiling=1.0),
    Figure("equal rewards", "zero_variance_share", "{:.0%}".format, ceiling=1.0),
    Figure("staleness", "staleness_mean", "{:.1f}".format),
    Figure("tokens/s", "tokens_per_second", "{:,.0f}".format),
)


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment."""

    phase: str
    """What goes on now, in words."""
    total_steps: int
    records: Sequence[Mapping[str, Any]] = field(default=())
    """The trainer's step records so far."""
    replicas_ready: int = 0
    replicas_wanted: int = 0
    training_seconds: float = 0.0
    """Since the first step was waited for."""

    @property
    def steps(self) -> int:
        return len(self.records)

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before the second step."""
        if self.steps < 2 or self.steps >= self.total_steps:
            return None
        first, last = self.records[0].get("time"), self.records[-1].get("time")
        if first is None or last is None:
            return None
        return float(last - first) / (self.steps - 1) * (self.total_steps - self.steps)


class Display(Protocol):
    """Where a run shows itself."""

    def note(self, text: str) -> None:
        """Something worth knowing happened; stays on the screen."""

    def update(self, snapshot: Snapshot) -> None:
        """How it stands now."""

    def close(self) -> None:
        """Nothing more comes."""


def open_display(console: Console, title: str) -> Display:
    """The right one for where the output goes."""
    return LiveDisplay(console, title) if console.is_terminal else LineDisplay(console, title)


class LiveDisplay:
    """Redraws a few lines in place."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def note(self, text: str) -> None:
        self._live.console.print(Text(text))

    def update(self, snapshot: Snapshot) -> None:
        self._live.update(draw(self._title, snapshot), refresh=True)

    def close(self) -> None:
        self._live.stop()


class LineDisplay:
    """Writes a line when the phase changes, and every few seconds while training."""

    def __init__(self, console: Console, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._phase = ""
        self._written = float("-inf")
        self._steps = 0
        self._print(title)

    def note(self, text: str) -> None:
        self._print(text)

    def update(self, snapshot: Snapshot) -> None:
        now = self._clock()
        if snapshot.phase != self._phase:
            self._phase = snapshot.phase
            self._print(snapshot.phase)
        if snapshot.steps > self._steps and (
            now - self._written >= PLAIN_SECONDS or snapshot.steps == snapshot.total_steps
        ):
            self._written, self._steps = now, snapshot.steps
            self._print(line(snapshot))

    def close(self) -> None:
        pass

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()


def line(snapshot: Snapshot) -> str:
    """Progress in one plain line."""
    parts = [f"step {snapshot.steps}/{snapshot.total_steps}"]
    last = snapshot.records[-1]
    parts += [f"{figure.label} {figure.show(last[figure.key])}" for figure in FIGURES if _is_number(last, figure.key)]
    parts.append(f"replicas {snapshot.replicas_ready}/{snapshot.replicas_wanted}")
    if (left := snapshot.seconds_left) is not None:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def draw(title: str, snapshot: Snapshot) -> RenderableType:
    """The live display's lines."""
    head = Text.assemble((title, "bold"), "  ", (snapshot.phase, "dim"))
    if not snapshot.records:
        return Padding(head, (1, 2))
    left = snapshot.seconds_left
    pace = Text.assemble(
        (f"step {snapshot.steps}/{snapshot.total_steps}", "bold"),
        (f"  {duration(snapshot.training_seconds)}", "dim"),
        (f", {duration(left)} left" if left is not None else "", "dim"),
    )
    bar = ProgressBar(
        total=snapshot.total_steps,
        completed=snapshot.steps,
        width=BAR_WIDTH,
        complete_style="cyan",
        finished_style="cyan",
    )
    progress = Table.grid(padding=(0, 2, 0, 0))
    progress.add_row(bar, pace)
    figures = Table.grid(padding=(0, 2, 0, 0))
    figures.add_column(style="dim", min_width=11)
    figures.add_column(justify="right", min_width=8)
    figures.add_column(style="cyan", no_wrap=True)
    last = snapshot.records[-1]
    for figure in FIGURES:
        if _is_number(last, figure.key):
            values = [float(record[figure.key]) for record in snapshot.records if _is_number(record, figure.key)]
            figures.add_row(figure.label, figure.show(last[figure.key]), trend(values, TREND_WIDTH, figure.ceiling))
    figures.add_row("replicas", f"{snapshot.replicas_ready} of {snapshot.replicas_wanted}", "")
    return Padding(Group(head, Text(), progress, Text(), figures), (1, 2))


def trend(values: Sequence[float], width: int, ceiling: float | None = None) -> str:
    """Values as a line of block characters: means of equal shares, from 0 (or the least, if negative) to `ceiling`."""
    shares = min(width, len(values))
    bounds = [round(index * len(values) / shares) for index in range(shares + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(bounds)]
    bottom, top = min(0.0, *means), max(ceiling or 0.0, *means)
    if top == bottom:
        return _LEVELS[0] * shares
    return "".join(_LEVELS[round((mean - bottom) / (top - bottom) * (len(_LEVELS) - 1))] for mean in means)


def duration(seconds: float) -> str:
    """48 s, 2:05, 1:02:05."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _is_number(record: Mapping[str, Any], key: str) -> bool:
    value = record.get(key)
    return isinstance(value, int | float) and value == value  # NaN is not drawn
