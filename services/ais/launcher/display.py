"""What a person sees while a run goes on: on a terminal one calm live display, elsewhere a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ais.launcher.course import Course

MARGIN = 2
"""Columns left free on both sides of the live display."""
LABEL_WIDTH, VALUE_WIDTH, GAP = 11, 8, 2
"""Columns of a figure's name, of its value, and between two columns."""
NARROWEST_TREND = 8
LONGEST_BAR = 56
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
    Figure("cut off", "truncated_share", "{:.0%}".format, ceiling=1.0),
    Figure("all alike", "zero_variance_share", "{:.0%}".format, ceiling=1.0),
    Figure("staleness", "staleness_mean", "{:.1f}".format),
    Figure("tokens/s", "tokens_per_second", "{:,.0f}".format),
)


def course_of_a_run(hidden: Collection[str] = ()) -> Course:
    """An empty course of the display's quantities, but for the hidden ones."""
    return Course(figure.key for figure in FIGURES if figure.key not in hidden)


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment."""

    phase: str
    """What goes on now, in words."""
    total_steps: int
    course: Course = field(default_factory=course_of_a_run)
    replicas_ready: int = 0
    replicas_wanted: int = 0
    """0: replicas are not what the phase is about."""
    training_seconds: float = 0.0
    """Since the first step was waited for."""

    @property
    def steps(self) -> int:
        return self.course.steps

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before the second step."""
        pace = self.course.seconds_a_step
        return None if pace is None or self.steps >= self.total_steps else pace * (self.total_steps - self.steps)


class Display(Protocol):
    """Where a run shows itself."""

    redraws: bool
    """Whether an update takes the place of the one before, so that seconds may run."""

    def note(self, text: str) -> None:
        """Something worth knowing happened; stays on the screen."""

    def update(self, snapshot: Snapshot) -> None:
        """How it stands now."""

    def close(self, keep: bool = False) -> None:
        """Nothing more comes. `keep`: what is shown stays, because no summary follows."""


def open_display(console: Console, title: str) -> Display:
    """The right one for where the output goes."""
    return LiveDisplay(console, title) if console.is_terminal else LineDisplay(console, title)


class LiveDisplay:
    """Redraws a few lines in place."""

    redraws = True

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def note(self, text: str) -> None:
        self._live.console.print(Text(text), soft_wrap=True)

    def update(self, snapshot: Snapshot) -> None:
        self._live.update(draw(self._title, snapshot, self._live.console.width), refresh=True)

    def close(self, keep: bool = False) -> None:
        self._live.transient = not keep
        self._live.stop()


class LineDisplay:
    """Writes a line when the phase changes, and every few seconds while training."""

    redraws = False

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

    def close(self, keep: bool = False) -> None:
        """All there was is on the page already."""

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()


def line(snapshot: Snapshot) -> str:
    """Progress in one plain line."""
    parts = [f"step {snapshot.steps}/{snapshot.total_steps}"]
    last = snapshot.course.last
    parts += [f"{figure.label} {figure.show(last[figure.key])}" for figure in FIGURES if figure.key in last]
    if snapshot.replicas_wanted:
        parts.append(f"replicas {snapshot.replicas_ready}/{snapshot.replicas_wanted}")
    if (left := snapshot.seconds_left) is not None:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def score_line(score: Mapping[str, Any]) -> str:
    """One source of an evaluation while training, of a line of held_out.jsonl."""
    first, last = score["first_version"], score["last_version"]
    versions = "" if first == last == score["step"] else f", by versions {first} to {last}"
    figures = [
        f"{name} {score[name]:.3f} ± {score[f'{name}_interval']:.3f}" for name in score if f"{name}_interval" in score
    ]
    reward = f"reward {score['reward_mean']:.3f} ± {score['reward_interval']:.3f}"
    parts = [f"{name.partition('.')[2]} {score[name]:.3f}" for name in score if name.startswith("reward_components.")]
    figures += parts if len(parts) > 1 else []
    return f"step {score['step']} on held-out {score['source']}{versions}: {'  '.join([reward, *figures])}"


def draw(title: str, snapshot: Snapshot, width: int) -> RenderableType:
    """The live display's lines, for a terminal of `width` columns."""
    head = Text.assemble((title, "bold"), "  ", (snapshot.phase, "dim"))
    if not snapshot.steps:
        return Padding(head, (1, MARGIN))
    figures = Table.grid(padding=(0, GAP, 0, 0))
    figures.add_column(style="dim", min_width=LABEL_WIDTH)
    figures.add_column(justify="right", min_width=VALUE_WIDTH)
    figures.add_column(style="cyan", no_wrap=True)
    room = max(NARROWEST_TREND, width - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH - 3 * GAP)
    for figure in FIGURES:
        if figure.key in snapshot.course.last:
            shape = trend(snapshot.course.trends[figure.key].means, room, figure.ceiling)
            figures.add_row(figure.label, figure.show(snapshot.course.last[figure.key]), shape)
    if snapshot.replicas_wanted:
        figures.add_row("replicas", f"{snapshot.replicas_ready} of {snapshot.replicas_wanted}", "")
    return Padding(Group(head, Text(), _progress(snapshot, width), Text(), figures), (1, MARGIN))


def _progress(snapshot: Snapshot, width: int) -> RenderableType:
    left = snapshot.seconds_left
    pace = Text.assemble(
        (f"step {snapshot.steps}/{snapshot.total_steps}", "bold"),
        (f"  {duration(snapshot.training_seconds)}" if snapshot.training_seconds else "", "dim"),
        (f", {duration(left)} left" if left is not None else "", "dim"),
    )
    bar = ProgressBar(
        total=snapshot.total_steps,
        completed=snapshot.steps,
        width=max(NARROWEST_TREND, min(LONGEST_BAR, width - 2 * MARGIN - 2 * GAP - len(pace.plain))),
        complete_style="cyan",
        finished_style="cyan",
    )
    progress = Table.grid(padding=(0, GAP, 0, 0))
    progress.add_row(bar, pace)
    return progress


def trend(values: Sequence[float], width: int, ceiling: float | None = None) -> str:
    """Values as a line of block characters, from 0 (or the least, if negative) to `ceiling`.

    With more values than `width`, means of equal shares of them; with fewer, each as wide as the width has room for.
    """
    shares = min(width, len(values))
    bounds = [round(index * len(values) / shares) for index in range(shares + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(bounds)]
    bottom, top = min(0.0, *means), max(ceiling or 0.0, *means)
    if top == bottom:
        return _LEVELS[0] * width
    drawn = [_LEVELS[round((mean - bottom) / (top - bottom) * (len(_LEVELS) - 1))] for mean in means]
    return "".join(drawn[column * shares // width] for column in range(width))


def duration(seconds: float) -> str:
    """48 s, 2:05, 1:02:05."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
