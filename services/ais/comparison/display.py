"""What a person sees of a comparison: on a terminal how far each worker is, elsewhere a line for each cell done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ais.comparison.grid import Cell
from ais.comparison.records import Record
from ais.launcher.display import duration

BAR = 32
REDRAWS_A_SECOND = 4


@dataclass
class _Under:
    """A cell that a worker trains now."""

    cell: Cell
    begun: float
    step: int = 0
    reward: float = 0.0


class Progress:
    """Draws itself anew on a terminal, and writes lines elsewhere."""

    def __init__(self, console: Console, done: int, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._total = total
        self._before = done
        self._done = done
        self._begun = clock()
        self._workers: dict[int, _Under] = {}
        self._live = (
            Live(get_renderable=self._draw, console=console, refresh_per_second=REDRAWS_A_SECOND, transient=True)
            if console.is_terminal
            else None
        )
        if self._live:
            self._live.start()

    def close(self) -> None:
        """Nothing more comes."""
        if self._live:
            self._live.stop()

    def began(self, worker: int, cell: Cell) -> None:
        self._workers[worker] = _Under(cell, self._clock())

    def stepped(self, worker: int, step: int, reward: float) -> None:
        self._workers[worker].step, self._workers[worker].reward = step, reward

    def done(self, worker: int, record: Record) -> None:
        self._done += 1
        under = self._workers.pop(worker)
        scores = ", ".join(f"{name} {column[-1]:.3f}" for name in ("p", "q") if (column := record.evaluations[name]))
        left = f", {duration(self._left())} left" if self._done < self._total else ""
        took = duration(self._clock() - under.begun)
        self._say(f"{self._done}/{self._total}  {record.place}: {scores} ({took}{left})")

    def failed(self, worker: int, cell: Cell, reason: str) -> None:
        self._workers.pop(worker)
        self._say(f"{cell.place} failed: {reason}")

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()

    def _left(self) -> float:
        """Seconds, at the pace so far."""
        parts = sum(under.step / under.cell.settings.run.steps for under in self._workers.values())
        made = self._done - self._before + parts
        return (self._clock() - self._begun) / made * (self._total - self._before - made) if made else 0.0

    def _draw(self) -> RenderableType:
        made = self._done - self._before
        head = Text(f"{self._done} of {self._total} cells", "bold")
        if made or any(under.step for under in self._workers.values()):
            head.append(f"  {duration(self._clock() - self._begun)}, {duration(self._left())} left", "dim")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_row(ProgressBar(total=self._total, completed=self._done, width=BAR, complete_style="cyan"), head, "")
        for _worker, under in sorted(self._workers.items()):
            steps = under.cell.settings.run.steps
            bar = ProgressBar(total=steps, completed=under.step, width=BAR, complete_style="cyan")
            shown = f"step {under.step}/{steps}  reward {under.reward:.2f}" if under.step else "loading"
            table.add_row(bar, str(under.cell.place), Text(shown, "dim"))
        return Padding(Group(table), (1, 2))
