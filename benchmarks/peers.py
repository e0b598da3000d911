"""How fast we are next to other systems, measured in one run: time to reward of the demo, a step of SmolLM2, and the
correction.

Time to reward: TRL's `GRPOTrainer`, in BF16 and in float32, and `ais run` with FP8 and with BF16 rollouts train the
demo's model on the same prompts, batches and learning rate, one after the other, in rounds whose order turns; a round
is a seed. Each uses all cores in its own way: TRL by threads of torch, we by processes. A training ends when the mean
reward of five steps in a row is enough. Seconds count from the end of the first step. Processor seconds are those of
all processes, and mean something on a machine that does other work as well. TRL samples with the trained weights and
corrects nothing. Ratios are to the faster of the two.

With `--problem smollm2` it is examples/smollm2, which has to be made first and needs vLLM: ours samples in INT8 and in
BF16 with vLLM, one version behind, as the example does; TRL alternates. Only steps are timed. vLLM's INT8 needs a
processor with VNNI. Who cannot be measured is left out with the reason, and each training is written as it is made.

The correction: `ais bench correction` with verl's helper (truncated sequence weights and metrics; ours has AIS at
sequence level and its diagnostics) on padded answers of different lengths, and ours on the same answers packed.

    ais bench peers                                        # installs the peers once, writes results/peers.json
    ais bench peers --cache DIR                            # keeps them in DIR and not in ~/.cache/ais/peers
    ais bench peers --contenders trl,fp8,bf16 --rounds 5   # no correction, more seeds
    ais bench peers --problem smollm2                      # half an hour; writes results/peers_smollm2.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ais.runtime.exits import EXIT_FAILED, EXIT_UNAVAILABLE, UnavailableError
from benchmarks.against_peers.course import Course, TrainingFailedError
from benchmarks.against_peers.environment import TRL, VERL, default_cache, trl_python, verl_directory
from benchmarks.against_peers.problem import PROBLEMS, Problem
from benchmarks.against_peers.ratios import PEERS, correction_figures, lines_of, training_figures
from benchmarks.against_peers.training import UNREACHABLE, Training, by_trl, ours
from benchmarks.support.report import Figure, publish, record

CORRECTION_SECONDS = 600.0

Train = Callable[[int, float], Course]
"""One training, of a seed and in so many seconds at most."""


def contenders_of(problem: str) -> tuple[str, ...]:
    """Who can be asked for; verl is compared in the correction, which has nothing to do with a problem."""
    return (*PEERS, *PROBLEMS[problem].precisions, *(("verl",) if problem == "demo" else ()))


def trainings(arguments: argparse.Namespace, problem: Problem, directory: Path) -> dict[str, Train]:
    """How each contender trains. Raises UnavailableError where a peer cannot be installed."""
    target = UNREACHABLE if arguments.reward is None else arguments.reward
    how = Training(problem, directory, arguments.steps, target)
    found: dict[str, Train] = {}
    for name in arguments.contenders:
        if name in PEERS:
            found[name] = partial(by_trl, trl_python(arguments.cache), arguments.threads, how, bf16=name == "trl")
        elif name in problem.precisions:
            found[name] = partial(ours, name, how)
    return found


Courses = dict[str, list[Course]]
"""By contender, those that were measured."""


def in_turns(
    contenders: Mapping[str, Train], rounds: int, seconds: float, made: Callable[[Courses, dict[str, str]], None]
) -> tuple[Courses, dict[str, str]]:
    """Every contender's courses, and the reason of each that fails, which is not asked again. Time that one leaves is
    shared by those that come after it. `made` is told of all so far after each training."""
    courses: Courses = {name: [] for name in contenders}
    skipped: dict[str, str] = {}
    names = list(contenders)
    deadline = time.monotonic() + seconds
    for seed in range(rounds):
        turn = seed % max(1, len(names))
        for place, name in enumerate(names[turn:] + names[:turn]):
            if name in skipped:
                continue
            left = (rounds - seed) * len(names) - place
            try:
                courses[name].append(contenders[name](seed, (deadline - time.monotonic()) / left))
            except TrainingFailedError as error:
                skipped[name] = error.reason
                print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
            made(measured(courses), skipped)
    return measured(courses), skipped


def measured(courses: Courses) -> Courses:
    """Those of contenders that have one."""
    return {name: of_one for name, of_one in courses.items() if of_one}


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
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return correction_figures(found["figures"])


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The caller's wishes; what is not said is the problem's own. Ends the program where they make no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=tuple(PROBLEMS), default="demo", help="what is trained: %(default)s")
    parser.add_argument("--contenders", help="separated by commas; all by default, see an unknown one's message")
    parser.add_argument("--rounds", type=int, help="seeds of each training: 3 of the demo, 1 of smollm2")
    parser.add_argument("--steps", type=int, help="most steps of a training, at least 6: 150 and 8")
    parser.add_argument("--reward", type=float, help="training reward that is to be reached: 0.8, and none")
    parser.add_argument("--seconds", type=float, help="for all trainings together: 1500 and 2400")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="TRL's threads; by default one a core")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where peers are kept: %(default)s")
    parser.add_argument("--note", default="", help="about the machine, for the record")
    arguments = parser.parse_args(words)
    problem, known = PROBLEMS[arguments.problem], contenders_of(arguments.problem)
    arguments.contenders = tuple(arguments.contenders.split(",")) if arguments.contenders else known
    if unknown := sorted(set(arguments.contenders) - set(known)):
        parser.error(f"unknown contenders: {', '.join(unknown)}; {arguments.problem} has {', '.join(known)}")
    for name in ("rounds", "steps", "reward", "seconds"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(problem, name))
    if arguments.steps < 6 or arguments.rounds < 1:
        parser.error("expected --steps of 6 or more and --rounds of 1 or more")
    return arguments


def main() -> int:
    arguments = arguments_of()
    problem = PROBLEMS[arguments.problem]
    compared = {"trl" if name in PEERS else name for name in arguments.contenders}
    peers = [f"{name} {version}" for name, version in (("trl", TRL), ("verl", VERL)) if name in compared]
    also = (*peers, *filter(None, [arguments.note]))
    file = "" if arguments.problem == "demo" else f"peers_{arguments.problem}"

    def made(courses: Courses, skipped: dict[str, str]) -> None:
        """A run that is ended loses nothing that it has measured."""
        record("peers", training_figures(courses, arguments.reward), *also, file=file, skipped=skipped)

    try:
        with tempfile.TemporaryDirectory(prefix="ais-peers-") as directory:
            contenders = trainings(arguments, problem, Path(directory))
            courses, skipped = in_turns(contenders, arguments.rounds, arguments.seconds, made)
        if contenders and not courses:
            print("no training could be measured", file=sys.stderr)
            return EXIT_FAILED
        found = training_figures(courses, arguments.reward)
        if "verl" in arguments.contenders:
            found |= correction(arguments.cache)
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return EXIT_UNAVAILABLE
    table = Table("figure", f"median of {arguments.rounds} rounds (lowest to highest)", "times less than the peer's")
    for line in lines_of(found):
        table.add_row(*line)
    Console(width=120).print(table)
    for name, reason in skipped.items():
        print(f"{name} was left out: {reason}")
    publish("peers", found, *also, file=file, skipped=skipped)
    return 0


if __name__ == "__main__":
    sys.exit(main())
