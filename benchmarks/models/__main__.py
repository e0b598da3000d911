"""Which models work: families, engines and number formats, each by a real replica and the trainer's own policy.

A tiny random model of each family is served by a replica of its own. Told are how far its log-probs are from those of
the trainer in BF16 (mean |log-ratio| and k3 a token), whether other weights can be pushed and the first ones again with
the same log-probs to the bit, and how large the delta of a training step is; and once, whether two ranks of the trainer
publish what one does. What a host cannot compute is refused, and that is a result too.

    ais bench models                                         # all; minutes for each start of vLLM on a busy CPU
    ais bench models --engines torch --families Qwen3 Llama
    ais bench models --keep                                  # goes on where it was stopped
    ais bench models --routing                               # mixtures of experts with and without routing replay

Each cell is a line of benchmarks/results/models.jsonl, with --routing of routing.jsonl; `python -m
benchmarks.models.report` makes the tables of docs/models.md of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table

from ais.comparison.machine import commit
from ais.launcher.processes.signals import run_cancellable
from benchmarks.models import routing
from benchmarks.models.families import FAMILIES
from benchmarks.models.measure import FORMATS, OF_ENGINE, Cell, measure
from benchmarks.models.report import cells, head, reasons, rows
from benchmarks.support.report import RESULTS, figure, machine

TORCH_FAMILIES = ("Qwen3", "Llama", "Llama, tied")
"""The torch engine is for these; it refuses the others, each by the same reason."""
CELL_SECONDS = 900.0


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--engines", nargs="+", choices=OF_ENGINE, default=list(OF_ENGINE))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--keep", action="store_true", help="leave out what is recorded already")
    parser.add_argument("--routing", action="store_true", help="measure routing replay, by vLLM, and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    if arguments.routing:
        return await _routing(arguments.families, arguments.formats, arguments.keep)
    file = RESULTS / "models.jsonl"
    if not arguments.keep:
        file.unlink(missing_ok=True)
    done = {(one.family, one.engine, one.format) for one in cells(file)} if file.exists() else set()
    wanted = [
        (family, engine, format_)
        for engine in arguments.engines
        for family in arguments.families
        if engine == "vllm" or family in TORCH_FAMILIES
        for format_ in OF_ENGINE[engine]
        if format_ in arguments.formats
    ]
    left = [one for one in wanted if one not in done]
    for number, (family, engine, format_) in enumerate(left, start=1):
        print(f"{number} of {len(left)}: {family}, {engine}, {format_}", file=sys.stderr, flush=True)
        _write(file, await _measured(family, engine, format_))
    found = [cell for cell in cells(file) if (cell.family, cell.engine, cell.format) in set(wanted)]
    _show(found, arguments.engines)
    told = {
        f"{cell.engine}_{cell.format}_{cell.family}": figure(cell.log_ratio, "nats")
        for cell in found
        if not cell.refused
    }
    print(json.dumps({"bench": "models", "machine": machine(), "commit": commit(), "figures": told}))
    return 0


async def _routing(families: Sequence[str], formats: Sequence[str], keep: bool) -> int:
    file = RESULTS / "routing.jsonl"
    if not keep:
        file.unlink(missing_ok=True)
    found = routing.replays(file) if file.exists() else []
    done = {(one.family, one.format) for one in found}
    for family in routing.FAMILIES:
        for format_ in ("bf16", "fp8"):
            if family in families and format_ in formats and (family, format_) not in done:
                print(f"{family}, vllm, {format_}", file=sys.stderr, flush=True)
                with tempfile.TemporaryDirectory() as temporary:
                    found.append(await routing.measure(family, format_, Path(temporary) / "log"))
                _write(file, found[-1])
    table = Table(*(name.replace("\\", "") for name in routing.HEAD), title="vLLM, against the trainer's BF16")
    for row in routing.rows(found):
        table.add_row(*row)
    Console().print(table)
    told = {f"{one.family}_{one.format}": figure(one.replayed_log_ratio, "nats", one.log_ratio) for one in found}
    print(json.dumps({"bench": "models", "machine": machine(), "commit": commit(), "figures": told}))
    return 0


async def _measured(family: str, engine: str, format_: str) -> Cell:
    with tempfile.TemporaryDirectory() as temporary:
        try:
            async with asyncio.timeout(CELL_SECONDS):
                return await measure(family, engine, format_, Path(temporary) / "log")
        except TimeoutError:
            return Cell(family, engine, format_, refused=f"nothing came of it within {CELL_SECONDS:g} s")


def _write(file: Path, cell: Cell | routing.Replay) -> None:
    record = cell.as_json() | {"machine": machine(), "commit": commit()}
    with file.open("a", encoding="utf-8") as output:
        output.write(json.dumps(record) + "\n")


def _show(found: Sequence[Cell], engines: Sequence[str]) -> None:
    for engine in engines:
        table = Table(*head(engine), title=f"{engine} engine, against the trainer's BF16: mean |log-ratio|, k3")
        for row in rows(found, engine):
            table.add_row(*row)
        Console().print(table)
        for line in reasons(found, engine):
            print(line)


if __name__ == "__main__":
    sys.exit(run_cancellable(main()))
