"""Cells as whole systems: an `ais run` for each, one after another, and what its directory says afterwards."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ais.comparison.grid import Cell
from ais.comparison.machine import commit, machine
from ais.comparison.records import SECONDS, STEP_FIGURES, Column, Record
from ais.contracts.sampling import is_bf16
from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.processes.commands import module
from ais.launcher.processes.processes import guarded
from ais.launcher.report.results import Results, read_results
from ais.runtime.tasks import end_tasks
from ais.settings import Settings, save

RUNS = "systems"
"""Folder of the runs, below the comparison's directory."""
GRACE_SECONDS = 60.0
"""A run that is told to stop commits a checkpoint first; then it is killed."""


class RunFailedError(RuntimeError):
    """A cell's run has failed. The message says with what."""


async def train_systems(
    cells: Sequence[Cell], directory: Path, note: Callable[[str], None], keep: Callable[[Record], None]
) -> int:
    """Trains the cells one after another, and goes on with a run that was begun. Gives how many have failed; those are
    told to `note`."""
    failed = 0
    for number, cell in enumerate(cells, start=1):
        note(f"{number}/{len(cells)}  {cell.place}")
        try:
            keep(await _train(cell, directory / RUNS))
        except RunFailedError as error:
            failed += 1
            note(f"{cell.place} failed: {error}")
    return failed


async def _train(cell: Cell, runs: Path) -> Record:
    run = RunDirectory(runs / cell.place.slug)
    if run.config.is_file():
        command = module("ais.cli", "resume", str(run.path))
    else:
        shutil.rmtree(run.path, ignore_errors=True)  # a run that was killed before it had written its settings
        file = runs / f"{cell.place.slug}.toml"
        await asyncio.to_thread(_write, cell, file)
        command = module("ais.cli", "run", "-c", str(file))
    if code := await _ended(command):
        raise RunFailedError(f"`ais run` ended with exit code {code}; its directory is {run.path}")
    return record_of(cell, read_results(run))


def _write(cell: Cell, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save(settings_of(cell, file.parent), file)


def settings_of(cell: Cell, runs: Path) -> Settings:
    """The settings of the cell's run: it keeps and scores a checkpoint wherever both policies are to be scored."""
    settings, compare = cell.settings, cell.compare
    points = settings.run.steps // compare.evaluate_every + 2
    run = settings.run.model_copy(update={"name": cell.place.slug, "directory": runs})
    checkpoints = settings.trainer.checkpoints.model_copy(
        update={"every_steps": compare.evaluate_every, "keep": points}
    )
    trainer = settings.trainer.model_copy(update={"checkpoints": checkpoints})
    scoring = {"evaluation_prompts": compare.final_prompts, "evaluation_checkpoints": points}
    launcher = settings.launcher.model_copy(update=scoring)
    return settings.model_copy(update={"run": run, "trainer": trainer, "launcher": launcher})


async def _ended(command: Sequence[str]) -> int:
    """Runs a command on our own screen and gives its exit code. When cancelled, it is asked to stop, and waited for."""
    process = await asyncio.create_subprocess_exec(*guarded(command))
    waiting = asyncio.create_task(process.wait())
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        process.terminate()
        await asyncio.wait((waiting,), timeout=GRACE_SECONDS)
        if process.returncode is None:
            process.kill()
        raise
    finally:
        await end_tasks(waiting)


def record_of(cell: Cell, results: Results) -> Record:
    """What a finished run says, as the record of its cell. Checkpoints that an interruption left do not count.

    Raises RunFailedError where its policies have no scores.
    """
    steps: dict[str, Column] = {"step": results.column("step")}  # type: ignore[dict-item]
    for name in STEP_FIGURES:
        steps[name] = [_number(record.get(name)) for record in results.steps]
    waits = [_number(record.get("phase_seconds.wait")) for record in results.steps]
    whole = [_number(record.get("step_seconds")) for record in results.steps]
    working = [None if all_ is None or wait is None else all_ - wait for all_, wait in zip(whole, waits, strict=True)]
    steps |= dict(zip(SECONDS, (waits, working), strict=True))
    if not results.trained:
        reason = results.record.reason if results.record else ""
        raise RunFailedError(f"its policies were not scored{': ' if reason else ''}{reason}")
    full = {score.step: score.reward_mean for score in results.trained}
    others = [column for told, column in results.evaluations.items() if not is_bf16(told)]
    quantised = {score.step: score.reward_mean for column in others for score in column} or full
    every, last = cell.compare.evaluate_every, cell.settings.run.steps
    points = [step for step in sorted(full.keys() & quantised.keys()) if step % every == 0 or step == last]
    evaluations: Mapping[str, Column] = {
        "step": [*points],
        "p": [full[step] for step in points],
        "q": [quantised[step] for step in points],
    }
    seconds = results.record.total_seconds if results.record else None
    return Record(cell.place, cell.identity, commit(), machine(), steps, evaluations, seconds or 0.0)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
