"""What it costs a run to be watched: evaluation while training and every tracker on, against both off.

Whole runs of the demo by `ais run`, its real replicas, collector and trainer, in pairs whose order alternates. A run's
throughput is its response tokens by the time from the end of its first steps to the end of its last.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.directory.steps import read_records
from benchmarks.support.report import Figure, spread

DEMO = Path(__file__).parents[2] / "examples" / "sort16" / "config.toml"
COST_LIMIT = 0.02
"""What is promised: being watched costs less than this share of the demo's throughput."""
WARM_UP_STEPS = 2
EVALUATIONS = 3
"""In each watched run, that of version 0 included."""
RUN_SECONDS = 1800.0


def watching_figures(rounds: int, steps: int) -> dict[str, Figure]:
    """Throughput of both kinds of runs, and the share that is lost in each pair; medians over the rounds."""
    speeds: dict[bool, list[float]] = {True: [], False: []}
    with TemporaryDirectory(prefix="ais-watching-") as directory:
        for number in range(rounds):
            for watched in (False, True) if number % 2 == 0 else (True, False):
                run = RunDirectory(Path(directory) / f"{'watched' if watched else 'alone'}-{number}")
                _train(run, steps, watched)
                speeds[watched].append(_tokens_per_second(run))
    costs = [1.0 - watched / alone for watched, alone in zip(speeds[True], speeds[False], strict=True)]
    return {
        "demo_unwatched_tokens_per_second": spread(speeds[False], "tokens/s"),
        "demo_watched_tokens_per_second": spread(speeds[True], "tokens/s"),
        "demo_watching_cost": spread(costs, "share of throughput", COST_LIMIT),
    }


def _train(run: RunDirectory, steps: int, watched: bool) -> None:
    """Raises CalledProcessError, with its output printed, for a run that fails."""
    settings: dict[str, object] = {
        "run.directory": run.path.parent,
        "run.name": run.name,
        "run.steps": steps,
        "launcher.evaluation_prompts": 0,
        "tracking.trackers": "[]",
    }
    if watched:
        settings |= {
            "evaluation.every_steps": -(-steps // EVALUATIONS),
            "tracking.trackers": '["tensorboard", "wandb", "trackio"]',
            "tracking.wandb.mode": "offline",
        }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "ais.cli", "run", "-c", str(DEMO), *overrides],
        env=os.environ | {"TRACKIO_DIR": str(run.path.parent / "trackio")},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        done.check_returncode()


def _tokens_per_second(run: RunDirectory) -> float:
    first, *counted = read_records(run.steps)[WARM_UP_STEPS - 1 :]
    return float(sum(record["tokens"] for record in counted) / (counted[-1]["time"] - first["time"]))


def lines_of(figures: Mapping[str, Figure]) -> list[tuple[str, str]]:
    """The figures as a table shows them: a name, and median with lowest and highest."""
    shown = []
    for name, one in figures.items():
        values = [float(one[key] or 0.0) for key in ("value", "lowest", "highest")]
        median, lowest, highest = (f"{value:.2%}" if name.endswith("cost") else f"{value:,.0f}" for value in values)
        shown.append((name.replace("_", " "), f"{median} ({lowest} to {highest})"))
    return shown
