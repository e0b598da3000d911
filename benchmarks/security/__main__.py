"""What tokens and mutual TLS cost: the queue, a push of weights and rollouts, each with them and without.

Rounds alternate, so that what disturbs one disturbs the other, and what is compared is the processor time of our own
processes on both sides, handshakes left out: connections last. The benchmarks are those of `ais bench queue`, `weights`
and `rollout`: groups of 8 trajectories of 4,096 tokens; a version sent to one replica; the demo's batch, sampled by the
torch engine and brought over by gRPC.

    ais bench security     # prints a table, writes benchmarks/results/security.json

Valkey's package has no TLS, so a process between it and ours speaks TLS, or hands bytes on as they are where there is
none. Its own time is not counted: a server of yours does that work.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Table

from ais.issuing import issue
from benchmarks.security.queue import Times, measure_queue
from benchmarks.support.report import Figure, publish, spread

TARGET = 1.03
"""Most that security may multiply the processor time by."""


def figures_of(name: str, times: Times) -> dict[str, Figure]:
    """Ratios are taken within a round."""
    ratios = [secured / plain for plain, secured in zip(times["open"], times["secured"], strict=True)]
    found = {f"{name}_{way}": spread(values, "processor s") for way, values in times.items()}
    return found | {f"{name}_overhead": spread(ratios, "times open", TARGET)}


def show(parts: Sequence[str], figures: dict[str, Figure]) -> None:
    table = Table("", "open, processor s", "secured", "secured / open", "lowest to highest")
    for part in parts:
        overhead = figures[f"{part}_overhead"]
        shown = [figures[f"{part}_{name}"]["value"] for name in ("open", "secured", "overhead")]
        table.add_row(part, *(f"{one:.3f}" for one in shown), f"{overhead['lowest']:.3f} to {overhead['highest']:.3f}")
    Console().print(table)


async def measure(secrets: Path, directory: Path, arguments: argparse.Namespace) -> dict[str, Times]:
    from benchmarks.security.services import measure_push, measure_rollouts  # the processes of the queue do without

    return {
        "push": await measure_push(secrets, arguments.megabytes, arguments.rounds, directory),
        "rollouts": await measure_rollouts(secrets, arguments.rounds, directory / "model"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--groups", type=int, default=256, help="of the queue, in a round")
    parser.add_argument("--megabytes", type=int, default=128, help="of the version that is pushed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ais-bench-security-") as temporary:
        directory = Path(temporary)
        secrets = directory / "secrets"
        list(issue(secrets))
        parts = {"queue": measure_queue(secrets, arguments.groups, arguments.rounds)}
        parts |= asyncio.run(measure(secrets, directory, arguments))
    figures = {name: one for part, times in parts.items() for name, one in figures_of(part, times).items()}
    show(list(parts), figures)
    publish("security", figures, f"{arguments.groups} groups, {arguments.megabytes} MB")


if __name__ == "__main__":
    main()
