"""Whether the console stays fluent on a long run with a large fleet, and how far it is behind one that goes on.

Real Chromium, without a screen, on a made-up run: steps are added and the fleet changes as of a run that goes on, and
somebody moves the pointer over a plot, chooses steps and looks for a replica.

    ais bench console                  # prints a table, writes benchmarks/results/console.json
    ais bench console --steps 1000 --replicas 10 --additions 3

`longest_frame` is the longest time between two frames. `work` is processor time of the page's main thread for one such
event, all of it: what a frame takes at most on a machine that does nothing else. The other figure has what else it does
in it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from ais.launcher.directory.run_directory import RunDirectory
from benchmarks.console.browser import Page, browser
from benchmarks.console.run import step_lines, write_fleet, write_run
from benchmarks.support.report import Figure, figure, publish

FRAME_LIMIT = 0.1
BEHIND_LIMIT = 2.0
LOAD_SECONDS = 300.0
WATCH_FRAMES = """
window.longest = 0; window.before = undefined; performance.setResourceTimingBufferSize(100000);
(function frame(now) { if (window.before) window.longest = Math.max(window.longest, now - window.before);
  window.before = now; requestAnimationFrame(frame); })();
"""
BOX = "document.querySelector('figure:not([hidden]) .canvas .u-over')"
SETTLED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Watch:
    """A page, and what it does."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.call("Performance.enable", timeDomain="threadTicks")

    def busy(self) -> float:
        """Processor seconds of its main thread so far."""
        metrics = self._page.call("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))

    def events(self, act: Callable[[int], object], times: int) -> tuple[list[float], list[float]]:
        """Work and longest frame of each time that `act` is called and its frames are drawn, seconds."""
        work, frames = [], []
        for number in range(times):
            self._page.evaluate("window.longest = 0")
            before = self.busy()
            act(number)
            self._page.evaluate(SETTLED)
            work.append(self.busy() - before)
            frames.append(self._page.evaluate("window.longest") / 1000)
        return work, frames


def measure(
    page: Page, run: RunDirectory, steps: int, replicas: int, additions: int, opened: float
) -> dict[str, Figure]:
    """`opened`: when the page was, seconds of a monotonic clock."""
    rows = "document.documentElement.dataset.rows"
    while page.evaluate(rows) != str(steps):
        if time.monotonic() - opened > LOAD_SECONDS:
            raise RuntimeError(f"the page has {page.evaluate(rows)} of {steps} steps; {page.troubles}")
        time.sleep(0.1)
    found = {"whole_run_shown": figure(time.monotonic() - opened, "s")}
    page.until(BOX)
    page.evaluate(WATCH_FRAMES)
    behind: list[float] = []

    def step_is_added(number: int) -> None:
        with run.steps.open("a", encoding="utf-8") as file:
            file.writelines(step_lines(steps + number + 1, steps + number + 1))
        written = time.monotonic()
        page.until(f"{rows} === '{steps + number + 1}'")
        behind.append(time.monotonic() - written)

    def fleet_changes(number: int) -> None:
        told = "document.querySelector('#fleet-told').textContent"
        page.evaluate(f"window.told = {told}")
        write_fleet(run, steps + 7 * (number + 1), replicas)
        page.until(f"{told} !== window.told")

    def pointer_moves(number: int) -> None:
        page.evaluate(
            f"(() => {{ const box = {BOX}; const {{ left, top, width, height }} = box.getBoundingClientRect();"
            f"box.dispatchEvent(new MouseEvent('mousemove', {{ clientX: left + width * {(number % 20) / 20},"
            "clientY: top + height / 2, bubbles: true })); })()"
        )

    def steps_are_chosen(number: int) -> None:
        path = "api/curves?" if number % 2 else "api/stretch?"
        answers = f"performance.getEntriesByType('resource').filter((one) => one.name.includes('{path}')).length"
        page.evaluate(f"window.asked = {answers}")
        page.evaluate(
            "document.querySelector('#whole').click()"
            if number % 2
            else f"document.querySelector('#first').value = {steps // 4}; document.querySelector('#last').value = "
            f"{steps // 2}; document.querySelector('#range').requestSubmit()"
        )
        page.until(f"{answers} > window.asked")

    def replica_is_looked_for(number: int) -> None:
        page.evaluate(
            f"Object.assign(document.querySelector('#fleet-text'), {{ value: '{number % 10}' }})"
            ".dispatchEvent(new Event('input'))"
        )

    for name, act, times in (
        ("step_is_added", step_is_added, additions),
        ("fleet_changes", fleet_changes, additions),
        ("pointer_moves", pointer_moves, 5 * additions),
        ("replica_is_looked_for", replica_is_looked_for, additions),
        ("steps_are_chosen", steps_are_chosen, min(6, 2 * additions)),
    ):
        work, frames = Watch(page).events(act, times)
        found[f"{name}_work"] = figure(median(work), "processor s") | {"highest": max(work)}
        found[f"{name}_longest_frame"] = figure(max(frames), "s", FRAME_LIMIT) | {"median": median(frames)}
    found["behind_p95"] = figure(float(np.quantile(behind, 0.95)), "s", BEHIND_LIMIT) | {"highest": max(behind)}
    if page.troubles:
        raise RuntimeError(f"the page has errors: {page.troubles}")
    return found


@contextmanager
def console(run: RunDirectory) -> Iterator[str]:
    """The address of `ais console`."""
    command = [sys.executable, "-m", "ais.cli", "console", str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            (address,) = re.findall(r"http://\S+", process.stdout.readline())
            yield address
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--additions", type=int, default=30, help="steps that come while it is watched")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ais-console-") as directory, browser() as chromium:
        run = write_run(Path(directory) / "long", arguments.steps, arguments.replicas)
        with console(run) as address:
            page = chromium.page()
            page.resize(1280, 900)
            opened = time.monotonic()
            page.open(address)
            page.until("document.documentElement.dataset.rows")
            found = measure(page, run, arguments.steps, arguments.replicas, arguments.additions, opened)
    table = Table(f"{arguments.steps:,} steps, {arguments.replicas:,} replicas", "")
    for name, one in found.items():
        table.add_row(name.replace("_", " "), f"{one['value']:.3f} {one['unit']}")
    Console().print(table)
    publish("console", found, f"{arguments.steps} steps, {arguments.replicas} replicas")


if __name__ == "__main__":
    main()
