"""What `ais compare` does once its command line is read; gives an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from ais.checks import check_before_start
from ais.comparison.display import Progress
from ais.comparison.grid import Cell, Place, cells_of
from ais.comparison.pool import train_cells
from ais.comparison.records import Record, Records, done_of
from ais.comparison.results import publish
from ais.comparison.settings import Comparison
from ais.comparison.system import train_systems
from ais.launcher.processes.signals import run_cancellable
from ais.running import FAILURES, tell
from ais.runtime.exits import EXIT_FAILED
from ais.runtime.files import FOR_OWNER, replace_file
from ais.runtime.output import Screen
from ais.runtime.process import UnavailableError
from ais.settings import to_toml
from ais.warming import make_missing_model

CELLS_FILE = "cells.jsonl"
CONFIG_FILE = "config.toml"
LOGS = "logs"


def compare_settings(comparison: Comparison, command: str, workers: int | None, report: bool) -> int:
    """Trains the cells that are not done, and writes what came of all. `command` is what goes on with it.

    With `report` nothing is trained.
    """
    try:
        cells = cells_of(comparison)
        records = Records(comparison.run.path / CELLS_FILE)
        if report:
            return _publish(comparison, cells, records)
        if code := _prepare(cells):
            return code
        with records.held():
            done = done_of(cells, records.read())
            _keep_settings(comparison)
            code = _train(comparison, cells, done, records, workers or len(os.sched_getaffinity(0)))
            if code > EXIT_FAILED:
                left = len(cells) - len(done_of(cells, records.read()))
                print(f"{left} of {len(cells)} cells are left; go on: {command}", file=sys.stderr)
                return code
            return _publish(comparison, cells, records) or code
    except FAILURES as error:
        return tell(error)


def list_cells(comparison: Comparison) -> int:
    """Prints the cells, and which are done."""
    try:
        cells = cells_of(comparison)
        done = done_of(cells, Records(comparison.run.path / CELLS_FILE).read())
    except FAILURES as error:
        return tell(error)
    for cell in cells:
        print(f"{'done' if cell.place in done else '-':4}  {cell.place}")
    print(f"{len(done)} of {len(cells)} cells are done in {comparison.run.path}")
    return 0


def _prepare(cells: Sequence[Cell]) -> int:
    """Looks at every task before anything starts, and makes a model that is missing, where the settings ask for it.

    Gives 0 or the exit code of what failed. Raises SettingsError, UnavailableError or ProcessFailedError.
    """
    for cell in {cell.place.task: cell for cell in cells}.values():
        if code := make_missing_model(cell.settings):
            return code
        check_before_start(cell.settings)
    return 0


def _keep_settings(comparison: Comparison) -> None:
    """Writes the settings that the workers read. Raises UnavailableError."""
    path = comparison.run.path / CONFIG_FILE
    try:
        (comparison.run.path / LOGS).mkdir(parents=True, exist_ok=True)
        replace_file(path, to_toml(comparison, passwords=True), FOR_OWNER)
    except OSError as error:
        raise UnavailableError(f"the results cannot be kept: {path}: {error.strerror}") from error


def _train(
    comparison: Comparison, cells: Sequence[Cell], done: dict[Place, Record], records: Records, workers: int
) -> int:
    """Trains the cells that are left. Gives 0, EXIT_FAILED where some have failed, or 128 and a signal's number."""
    left = [(number, cell) for number, cell in enumerate(cells) if cell.place not in done]
    if not left:
        return 0
    directory, screen = comparison.run.path, Screen()
    if comparison.compare.mode == "system":
        return run_cancellable(_train_systems([cell for _number, cell in left], directory, screen, records))
    progress = Progress(screen, len(done), len(cells))
    try:
        return run_cancellable(_train_in_process(left, directory, workers, progress, records))
    finally:
        progress.close()


async def _train_in_process(
    cells: Sequence[tuple[int, Cell]], directory: Path, workers: int, progress: Progress, records: Records
) -> int:
    failed = await train_cells(cells, directory / CONFIG_FILE, directory / LOGS, workers, progress, records.append)
    return EXIT_FAILED if failed else 0


async def _train_systems(cells: Sequence[Cell], directory: Path, screen: Screen, records: Records) -> int:
    def note(text: str) -> None:
        screen.print(Text(text, "bold"), soft_wrap=True)
        screen.file.flush()

    return EXIT_FAILED if await train_systems(cells, directory, note, records.append) else 0


def _publish(comparison: Comparison, cells: Sequence[Cell], records: Records) -> int:
    done = done_of(cells, records.read())
    if not done:
        raise UnavailableError(f"no cell of this comparison is done in {comparison.run.path}")
    publish(comparison.run.path, [done[cell.place] for cell in cells if cell.place in done], Screen())
    if len(done) < len(cells):
        print(f"{len(done)} of {len(cells)} cells are done", file=sys.stderr)
    return 0
