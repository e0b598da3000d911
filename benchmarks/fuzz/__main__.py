"""Mutated inputs, guided by coverage, at every border that reads bytes of others: anything but a refusal is a bug.

Borders are messages of gRPC, entries of the queue, events, records of replicas and evaluations, offers, answers,
deltas, safetensors files, adapters, settings, what the policy, reward services and workers say, callers' tokens, and
bodies of calls at the endpoint of episodes. Each is fed by a process of its own. An input that takes longer than 20 s,
or that makes the process larger than 2 GiB, is a crash too.

    ais bench fuzz --directory runs/fuzz         # ten million inputs over all: hours
    ais bench fuzz --inputs 20000 --targets offer,delta --record fuzz_some

With `--directory`, which keeps inputs that were found and their number, it goes on where it was stopped. Inputs that
break a border are told in base 64, and the benchmark ends with 1. `benchmarks/fuzz/corpus` has a few of each target,
which tests read again: `--keep` writes it. It needs atheris, which has wheels for Linux.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Table

from benchmarks.fuzz.campaign import Outcome, campaign
from benchmarks.fuzz.corpus import keep
from benchmarks.fuzz.targets import PLACES
from benchmarks.support.report import Figure, figure, publish


def figures_of(outcomes: Mapping[str, Outcome]) -> dict[str, Figure]:
    figures = {
        "inputs": figure(sum(one.inputs for one in outcomes.values()), "inputs"),
        "crashes": figure(sum(len(one.crashes) for one in outcomes.values()), "inputs"),
        "slowest": figure(max(one.slowest_seconds for one in outcomes.values()), "s"),
        "memory": figure(max(one.megabytes for one in outcomes.values()), "MiB"),
    }
    for name, one in outcomes.items():
        figures[f"{name}_inputs"] = figure(one.inputs, "inputs") | {"taken": one.taken, "crashes": len(one.crashes)}
        figures[f"{name}_rate"] = figure(one.inputs / max(one.processor_seconds, 1e-9), "inputs/processor s")
        figures[f"{name}_slowest"] = figure(one.slowest_seconds, "s")
        figures[f"{name}_memory"] = figure(one.megabytes, "MiB")
    return figures


def show(outcomes: Mapping[str, Outcome]) -> None:
    table = Table("border", "inputs", "taken", "a processor second", "slowest, ms", "memory, MiB", "crashes")
    for name, one in outcomes.items():
        rate = one.inputs / max(one.processor_seconds, 1e-9)
        shown = (f"{one.inputs:,}", f"{one.taken:,}", f"{rate:,.0f}", f"{one.slowest_seconds * 1000:.1f}")
        table.add_row(name, *shown, f"{one.megabytes:.0f}", str(len(one.crashes)))
    Console().print(table)
    for crash in (crash for one in outcomes.values() for crash in one.crashes):
        print(f"{crash}: {base64.b64encode(crash.read_bytes()).decode()}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000_000, help="over all targets")
    parser.add_argument("--targets", default="", help="separated by commas; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="goes on there; by default it begins anew")
    parser.add_argument("--record", default="fuzz", help="name of the file in benchmarks/results")
    parser.add_argument("--keep", action="store_true", help="write a few of the inputs found to benchmarks/fuzz/corpus")
    arguments = parser.parse_args()
    names = arguments.targets.split(",") if arguments.targets else list(PLACES)
    if unknown := [name for name in names if name not in PLACES]:
        parser.error(f"there is no target {unknown[0]}; there are: {', '.join(PLACES)}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the process that is fed ends as well
    shares = sum(PLACES[name].share for name in names)
    outcomes = {}
    temporary = tempfile.TemporaryDirectory(prefix="ais-fuzz-")
    for name in names:
        inputs = round(arguments.inputs * PLACES[name].share / shares)
        directory = (arguments.directory or Path(temporary.name)) / name
        outcomes[name] = campaign(PLACES[name].module, name, directory, inputs, arguments.seed)
        print(f"{name}: {outcomes[name].inputs:,} inputs, {len(outcomes[name].crashes)} crashes", file=sys.stderr)
        if arguments.keep:
            keep(name, directory)
    show(outcomes)
    publish("fuzz", figures_of(outcomes), f"seed {arguments.seed}", file=arguments.record)
    if any(one.crashes for one in outcomes.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
