"""Floods: what a client that behaves sees of a service while others do not.

Real processes on loopback: a replica with the torch engine (gRPC and HTTP), and what every service has over HTTP
(health and metrics). Each flood comes from a process of its own, at all listeners at once; a connection that is ended
is opened anew a second later. Meanwhile a client goes on with its calls, each with a deadline of 5 s: it samples, over
a connection that lasts and over new ones, reads a replica's version and scrapes metrics. Before each flood it does the
same alone.

    ais bench floods            # prints a table, writes benchmarks/results/floods.json; two minutes
    ais bench floods --floods idle,scrapes --seconds 20

The floods: 1,000 idle connections to each listener (`idle`), bodies of which a byte comes each second (`slow`), bodies
of 10 GB as their heads announce (`announced`) and without a length (`streamed`), bodies, heads and garbage that never
end (`endless`), 200 scrapes at once of each HTTP listener, again and again (`scrapes`). Bodies are weights, half of
them sent with the trainer's token. All of it takes processor time of the same machine: latencies also tell of that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Table

from benchmarks.floods.client import DEADLINE_SECONDS, Calls, behave
from benchmarks.floods.flooder import FLOODS
from benchmarks.floods.report import columns, row
from benchmarks.floods.services import Services, running
from benchmarks.support.memory import forget_peak, peak
from benchmarks.support.report import Figure, figure, publish


@dataclass(frozen=True)
class Phase:
    """What the client saw, and how large the services became."""

    calls: dict[str, Calls]
    peaks: dict[str, int]
    """Bytes, by service."""


async def phase(services: Services, seconds: float) -> Phase:
    for process in services.processes.values():
        forget_peak(process)
    calls = await behave(services, seconds)
    return Phase(calls, {name: peak(process) for name, process in services.processes.items()})


async def flooded(services: Services, name: str, seconds: float, scale: float) -> tuple[Phase, dict[str, Any]]:
    """The same phase while a flood goes on, and what became of the flood."""
    addresses = (services.generation, services.control, services.shared, services.keyring.directory)
    flooder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.floods.flooder", name, *map(str, addresses), str(scale)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert flooder.stdout is not None
        for process in services.processes.values():
            forget_peak(process)
        if await flooder.stdout.readline() != b"begun\n":
            raise RuntimeError(f"the flood {name} did not begin")
        calls = await behave(services, seconds)
        peaks = {one: peak(process) for one, process in services.processes.items()}
        told, _ = await flooder.communicate(b"")
        return Phase(calls, peaks), json.loads(told)
    finally:
        if flooder.returncode is None:
            flooder.kill()
            await flooder.wait()


def figures_of(name: str, alone: Phase, during: Phase, tally: dict[str, Any]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for kind, calls in during.calls.items():
        before = alone.calls[kind]
        figures[f"{name}_{kind}"] = figure(calls.quantile(0.99), "s", before.quantile(0.99)) | {
            "median": calls.quantile(0.5),
            "longest": calls.quantile(1.0),
            "median_before": before.quantile(0.5),
            "longest_before": before.quantile(1.0),
            "calls": len(calls.seconds),
            "failed": len(calls.failed),
            "calls_before": len(before.seconds),
            "failed_before": len(before.failed),
        }
    for service, bytes_ in during.peaks.items():
        figures[f"{name}_{service}_memory"] = figure(bytes_, "bytes", alone.peaks[service])
    ended = tally["seconds"] or [0.0]
    figures[f"{name}_ended"] = figure(len(tally["seconds"]), "connections") | {
        "opened": tally["opened"],
        "sent_bytes": tally["sent"],
        "median_seconds": median(ended),
        "longest_seconds": max(ended),
        "answers": ", ".join(f"{answer}: {count}" for answer, count in sorted(tally["answers"].items())),
    }
    return figures


async def measure(names: list[str], seconds: float, scale: float) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory(prefix="ais-bench-floods-") as directory:
        async with running(Path(directory)) as services:
            await behave(services, 1.0)  # warms up
            for name in names:
                alone = await phase(services, seconds)
                during, tally = await flooded(services, name, seconds, scale)
                figures |= figures_of(name, alone, during, tally)
                failed = {why for calls in during.calls.values() for why in calls.failed}
                print(f"{name}: {figures[f'{name}_ended']['answers']}", *sorted(failed)[:5], sep="\n", file=sys.stderr)
    return figures


def show(names: list[str], figures: dict[str, Figure]) -> None:
    table = Table(*columns())
    for name in names:
        table.add_row(*row(name, figures))
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--floods", default="", help="separated by commas; all by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each flood, and of the time before it")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of connections")
    arguments = parser.parse_args()
    names = arguments.floods.split(",") if arguments.floods else list(FLOODS)
    if unknown := [name for name in names if name not in FLOODS]:
        parser.error(f"there is no flood {unknown[0]}; there are: {', '.join(FLOODS)}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the processes end as well
    figures = asyncio.run(measure(names, arguments.seconds, arguments.scale))
    show(names, figures)
    publish("floods", figures, f"{arguments.seconds:g} s, deadline {DEADLINE_SECONDS:g} s, scale {arguments.scale:g}")


if __name__ == "__main__":
    main()
