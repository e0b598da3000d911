"""How fast we are next to other systems, measured in one run: time to reward of the demo, and the correction.

Time to reward: TRL's `GRPOTrainer` in BF16 and `ais run` with FP8 and with BF16 rollouts train the demo's model on the
same prompts, batches and learning rate, one after the other, in rounds whose order turns; a round is a seed. Each uses
all cores in its own way: TRL by threads of torch, we by processes. A training ends when the mean reward of five steps
in a row is enough. Seconds count from the end of the first step. Processor seconds are those of all processes, and mean
something on a machine that does other work as well. TRL samples in BF16 and corrects nothing.

The correction: `ais bench correction` with verl's helper (truncated sequence weights and metrics; ours has AIS at
sequence level and its diagnostics) on padded answers of different lengths, and ours on the same answers packed.

    ais bench peers                                        # installs the peers once, writes results/peers.json
    ais bench peers --cache DIR                            # keeps them in DIR and not in ~/.cache/ais/peers
    ais bench peers --contenders trl,fp8,bf16 --rounds 5   # no correction, more seeds
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ais.runtime.exits import EXIT_FAILED, EXIT_SETTINGS, EXIT_UNAVAILABLE, UnavailableError
from benchmarks.against_peers.course import Course, TrainingFailedError
from benchmarks.against_peers.demo import PRECISIONS, Training, by_trl, ours
from benchmarks.against_peers.environment import TRL, VERL, default_cache, trl_python, verl_directory
from benchmarks.against_peers.ratios import correction_figures, demo_figures, lines_of
from benchmarks.support.report import Figure, publish

CONTENDERS = ("trl", *PRECISIONS, "verl")
CORRECTION_SECONDS = 600.0

Train = Callable[[int, float], Course]
"""One training, of a seed and in so many seconds at most."""


def trainings(arguments: argparse.Namespace, directory: Path) -> dict[str, Train]:
    """How each contender trains the demo. Raises UnavailableError where a peer cannot be installed."""
    how = Training(directory, arguments.steps, arguments.reward)
    found: dict[str, Train] = {}
    for name in arguments.contenders:
        if name == "trl":
            found[name] = partial(by_trl, trl_python(arguments.cache), arguments.threads, how)
        elif name in PRECISIONS:
            found[name] = partial(ours, name, how)
    return found


def in_turns(contenders: Mapping[str, Train], rounds: int, seconds: float) -> dict[str, list[Course]]:
    """Every contender's courses. Time that one leaves is shared by those that come after it."""
    courses: dict[str, list[Course]] = {name: [] for name in contenders}
    names = list(contenders)
    deadline = time.monotonic() + seconds
    for seed in range(rounds):
        turn = seed % max(1, len(names))
        for place, name in enumerate(names[turn:] + names[:turn]):
            left = (rounds - seed) * len(names) - place
            courses[name].append(contenders[name](seed, (deadline - time.monotonic()) / left))
    return courses


def correction(cache: Path) -> dict[str, Figure]:
    """`ais bench correction`, with verl where it can be had; a machine without it is told so, and measured all the
    same."""
    environment = dict(os.environ)
    try:
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (environment.get("PYTHONPATH"), str(verl_directory(cache))))
        )
    except UnavailableError as error:
        print(f"the correction is compared with eager metrics instead of verl's helper: {error}", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.correction"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=CORRECTION_SECONDS,
        check=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return correction_figures(measured["figures"])


def contender_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(CONTENDERS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(CONTENDERS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", type=contender_names, default=CONTENDERS, help=",".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3, help="seeds of each training")
    parser.add_argument("--steps", type=int, default=150, help="most steps of a training, at least 6")
    parser.add_argument("--reward", type=float, default=0.8, help="training reward that is to be reached")
    parser.add_argument("--seconds", type=float, default=480.0, help="for all trainings together")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="TRL's threads; by default one a core")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where peers are kept: %(default)s")
    parser.add_argument("--note", default="", help="about the machine, for the record")
    arguments = parser.parse_args()
    if arguments.steps < 6 or arguments.rounds < 1:
        print("expected --steps of 6 or more and --rounds of 1 or more", file=sys.stderr)
        return EXIT_SETTINGS
    try:
        with tempfile.TemporaryDirectory(prefix="ais-peers-") as directory:
            contenders = trainings(arguments, Path(directory))
            found = demo_figures(in_turns(contenders, arguments.rounds, arguments.seconds), arguments.reward)
        if "verl" in arguments.contenders:
            found |= correction(arguments.cache)
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return EXIT_UNAVAILABLE
    except TrainingFailedError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    table = Table("figure", f"median of {arguments.rounds} rounds (lowest to highest)", "times less than the peer's")
    for line in lines_of(found):
        table.add_row(*line)
    Console(width=120).print(table)
    peers = [f"{name} {version}" for name, version in (("trl", TRL), ("verl", VERL)) if name in arguments.contenders]
    publish("peers", found, *peers, *filter(None, [arguments.note]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
