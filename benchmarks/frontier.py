"""What each method makes of two policies: the BF16 one that is trained (p) and the quantised one that samples (q).

GRPO on the demo's task and scale in one process, BF16 trainer and a truly quantised sampler: the parts are the
trainer's and the torch engine's own (benchmarks/tiny_grpo). A run is a line of benchmarks/results/frontier.jsonl; runs
that are there are not made again. Without --methods it prints what there is.

    ais bench frontier --methods none,tis_sequence --precisions e5m2 --seeds 5
    ais bench frontier --check docs/algorithm.md       # are the document's tables those of the recorded runs?
    ais bench frontier --write docs/algorithm.md       # make them so
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console

from benchmarks.support.report import RESULTS, commit, machine
from benchmarks.tiny_grpo.experiment import METHODS, PRECISIONS, Experiment
from benchmarks.tiny_grpo.formats import measure
from benchmarks.tiny_grpo.report import Record, figures, filled, read, rows, table
from benchmarks.tiny_grpo.training import run

HERE = Path(__file__).parent
RECORDS = RESULTS / "frontier.jsonl"
FORMATS = RESULTS / "frontier_formats.json"
MODELS = {"sort16": HERE.parent / "examples" / "sort16" / "model"}
"""Warm-started models that are committed; for other tasks `ais warmstart --set collector.task.digits=N` makes one."""


def wanted(arguments: argparse.Namespace) -> list[Experiment]:
    """The runs asked for, seeds outermost: after a few minutes there is a bit of everything."""
    first, _, last = arguments.seeds.rpartition("-")
    return [
        Experiment(method, precision, seed, arguments.task, arguments.steps)
        for seed in (range(int(first), int(last) + 1) if first else range(int(last)))
        for precision in arguments.precisions.split(",")
        for method in arguments.methods.split(",")
    ]


def check_names(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    for kind, known in (("methods", METHODS), ("precisions", PRECISIONS)):
        if unknown := set(getattr(arguments, kind).split(",")) - {*known, ""}:
            parser.error(f"--{kind}: there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="", help="names of tiny_grpo.experiment.METHODS, separated by commas")
    parser.add_argument("--precisions", default="e5m2", help="names of tiny_grpo.experiment.PRECISIONS")
    parser.add_argument("--task", default="sort16", help="sortN")
    parser.add_argument("--model", type=Path, help="warm-started model of the task; sort16 has one")
    parser.add_argument("--seeds", default="2", help="how many, from 0; or a range such as 2-4")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--formats", action="store_true", help="measure the mismatch of every format before training")
    parser.add_argument("--results", type=Path, default=RECORDS)
    parser.add_argument("--write", type=Path, metavar="FILE", help="make the tables of a document from the runs")
    parser.add_argument("--check", type=Path, metavar="FILE", help="exit 1 unless a document's tables are the runs'")
    arguments = parser.parse_args()
    check_names(parser, arguments)
    torch.set_num_threads(1)
    if arguments.methods:
        model = arguments.model or MODELS.get(arguments.task) or parser.error(f"--model: {arguments.task} needs one")
        for experiment in wanted(arguments):
            if not any(experiment.key.items() <= record.items() for record in read(arguments.results)):
                record = {**run(experiment, model), "commit": commit()}
                with arguments.results.open("a", encoding="utf-8") as opened:
                    opened.write(json.dumps(record) + "\n")
                print(f"{experiment}: p {record['p']:.3f}, q {record['q']:.3f}", file=sys.stderr, flush=True)
    if arguments.formats:
        FORMATS.write_text(
            json.dumps({"commit": commit(), "formats": measure(MODELS["sort16"])}, indent=1) + "\n", encoding="utf-8"
        )
    records = read(arguments.results)
    if document := arguments.write or arguments.check:
        text = document.read_text(encoding="utf-8")
        made = filled(text, records, json.loads(FORMATS.read_text(encoding="utf-8"))["formats"])
        if arguments.write:
            document.write_text(made, encoding="utf-8")
        elif made != text:
            parser.exit(1, f"{document}: its tables are not those of {arguments.results}; --write makes them so\n")
    show(records)
    print(json.dumps({"bench": "frontier", "machine": machine(), "commit": commit(), "figures": figures(records)}))


def show(records: list[Record]) -> None:
    for task in sorted({record["task"] for record in records}):
        for precision in sorted({record["precision"] for record in records if record["task"] == task}):
            Console().print(table(f"{task}, {precision}", rows(records, task, precision)))


if __name__ == "__main__":
    main()
