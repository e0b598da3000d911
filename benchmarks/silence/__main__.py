"""Which alerts fire, or are about to, over runs that are in order? None should.

Whole runs, each watched from the moment when its services listen until after its end by a real Prometheus, with the
rules and the intervals of `deploy/prometheus`: the demo, the calm half of `ais chaos`, and the example of long answers.

    ais bench silence                             # prints a table, writes benchmarks/results/silence_RUN.json of each
    ais bench silence --runs demo --demo-steps 40

A window of half an hour looks back on what there is: what these runs show is what a run of their length can show. An
alert that fires gives exit code 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Table

from benchmarks.silence.healthy import RUNS, Watched, watched
from benchmarks.support.report import Figure, figure, publish


def figures_of(one: Watched) -> dict[str, Figure]:
    """How long and how far it was watched, and for how long each alert was pending or firing, if any was."""
    found = {
        f"{one.name}_watched": figure(one.seconds, "s"),
        f"{one.name}_steps": figure(one.steps, "steps"),
        f"{one.name}_alerts_pending": figure(len(one.seconds_by("pending")), "alerts"),
        f"{one.name}_alerts_firing": figure(len(one.seconds_by("firing")), "alerts"),
    }
    for state in ("pending", "firing"):
        for alert, seconds in one.seconds_by(state).items():
            found[f"{one.name}_{alert}_{state}"] = figure(seconds, "s")
    return found


def show(runs: list[Watched]) -> None:
    table = Table("run", "steps", "watched", "rules evaluated", "about to fire", "fired")
    for one in runs:
        told = (", ".join(one.seconds_by(state)) or "none" for state in ("pending", "firing"))
        table.add_row(one.name, str(one.steps), f"{one.seconds:.0f} s", f"{one.evaluations} times", *told)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default=",".join(RUNS), help="which ones, with commas between")
    for name, run in RUNS.items():
        parser.add_argument(f"--{name}-steps", type=int, default=run.steps)
    parser.add_argument("--after", type=float, default=90.0, help="seconds watched after a run's end")
    arguments = parser.parse_args()
    names = arguments.runs.split(",")
    if unknown := set(names) - RUNS.keys():
        parser.error(f"there are {', '.join(RUNS)}; not {', '.join(unknown)}")
    done = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="ais-silence-") as directory:
            steps = getattr(arguments, f"{name}_steps")
            done.append(watched(name, RUNS[name], steps, arguments.after, Path(directory)))
        show(done)
        publish("silence", figures_of(done[-1]), file=f"silence_{name}")
    sys.exit(1 if any(one.seconds_by("firing") for one in done) else 0)


if __name__ == "__main__":
    main()
