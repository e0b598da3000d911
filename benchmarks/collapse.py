"""Why policies are lost where rollouts are quantised and answers have tens of tokens: trainings taken apart.

With `--frozen` it compares gradients instead, at policies that stay as they are: those of quantised rollouts with
that of BF16 rollouts of the same policy, one line of benchmarks/results/collapse_frozen.jsonl for each of them.

Each run is one line of benchmarks/results/collapse.jsonl, with the make-up of every step's gradient; runs that are
there are not made again. The interventions change one thing of a run: the learning rate, what it is multiplied by,
Adam's memory, the weight of the tokens where answers first go wrong, or the prompts that are trained on.

    ais warmstart -o models/sort48 --set collector.task.digits=48 --set launcher.warm_start.batch_size=64 \
      --set launcher.warm_start.accuracy=0.17
    ais bench collapse --model models/sort48 --runs tis_token,tis_token+signal --seeds 2 --keep runs/kept
    ais bench collapse --model models/sort48 --frozen start,runs/kept/tis_token-0/30.safetensors
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from ais.comparison.machine import commit
from ais_core.settings import CorrectionSettings, MixingSettings
from benchmarks.support.report import RESULTS, figure, machine
from benchmarks.tiny_grpo.dissection import Study, run
from benchmarks.tiny_grpo.experiment import PRECISIONS
from benchmarks.tiny_grpo.frozen import Frozen, compare
from benchmarks.tiny_grpo.frozen_table import filled
from benchmarks.tiny_grpo.report import Record, read

RECORDS = RESULTS / "collapse.jsonl"
FROZEN = RESULTS / "collapse_frozen.jsonl"
SAME = MixingSettings(evaluation="same_batch")
METHODS = {
    "none": CorrectionSettings(method="none"),
    "tis_token": CorrectionSettings(method="tis", level="token"),
    "ais": CorrectionSettings(method="ais", mixing=SAME),
    "handover": CorrectionSettings(method="handover", mixing=SAME),
    "adaptive": CorrectionSettings(method="ais", level="adaptive", mixing=SAME),
}
INTERVENTIONS = {
    "slow": {"rate": 1 / 3},
    "signal": {"pace": "signal"},
    "long_memory": {"beta2": 0.999},
    "centred": {"centred": True},
    "informative": {"only_informative": True},
    "errors_whole": {"errors": "uncorrected"},
    "errors_weighed": {"errors": "ratio"},
    "bf16": {"precision": "bf16"},
    "e4m3": {"precision": "e4m3"},
}
"""Written after a plus: `tis_token+signal`."""


def study(name: str, seed: int, task: str, steps: int) -> Study:
    """The run of a name. Raises KeyError for one that is not known."""
    method, *changes = name.split("+")
    METHODS[method]
    made = Study(method, seed, task=task, steps=steps)
    for change in changes:
        made = replace(made, **INTERVENTIONS[change])  # type: ignore[arg-type]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="", help=f"{', '.join(METHODS)}, each with + and {', '.join(INTERVENTIONS)}")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--task", default="sort48", help="sortN")
    parser.add_argument("--model", type=Path, help="warm-started model of the task")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--compute", choices=("bfloat16", "float32"), default="bfloat16", help="of the trainer")
    parser.add_argument("--keep", type=Path, help="directory for the weights at each evaluation")
    parser.add_argument("--frozen", default="", help="files that --keep left, or `start` for the model's own weights")
    parser.add_argument("--precision", default="e5m2", choices=PRECISIONS, help="of the rollouts at frozen policies")
    parser.add_argument("--batches", default="8,6", help="of BF16 rollouts and of quantised ones at a frozen policy")
    parser.add_argument("--centred", action="store_true", help="at frozen policies: centred scores as well")
    parser.add_argument("--write", type=Path, metavar="FILE", help="make the table of a document from what is recorded")
    parser.add_argument("--results", type=Path, default=RECORDS)
    parser.add_argument("--frozen-results", type=Path, default=FROZEN)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in arguments.runs.split(",") if name]
    try:
        wanted = [
            (name, study(name, seed, arguments.task, arguments.steps))
            for seed in range(arguments.seeds)
            for name in names
        ]
    except KeyError as error:
        parser.error(f"--runs: there is no {error}")
    frozen = [name for name in arguments.frozen.split(",") if name]
    if (wanted or frozen) and arguments.model is None:
        parser.error("--model: runs need a warm-started model")
    for name in frozen:
        compare_frozen(name, arguments)
    for name, one in wanted:
        if any(one.key.items() <= record.items() for record in read(arguments.results)):
            continue
        keep = arguments.keep and arguments.keep / f"{name}-{one.seed}"
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
        record = run(one, METHODS[one.method], arguments.model, getattr(torch, arguments.compute), keep)
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        with arguments.results.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps({"name": name, **record, "commit": commit()}) + "\n")
        print(f"{name}, seed {one.seed}: {summary(record)}", file=sys.stderr, flush=True)
    records = read(arguments.results)
    if document := arguments.write:
        made = filled(document.read_text(encoding="utf-8"), read(arguments.frozen_results))
        document.write_text(made, encoding="utf-8")
    found = {
        f"{record['policy']}_{record['compute']}_{method}_cosine": figure(
            record[method]["cosine"], "with the gradient of BF16 rollouts"
        )
        for record in read(arguments.frozen_results)
        for method in METHODS
        if method in record
    }
    found |= {
        f"{record['name']}_{record['seed']}_{key}": figure(value, unit)
        for record in records
        for key, value, unit in ends(record)
    }
    print(json.dumps({"bench": "collapse", "machine": machine(), "commit": commit(), "figures": found}))


def compare_frozen(name: str, arguments: argparse.Namespace) -> None:
    """Records one frozen policy, unless it is recorded."""
    weights = None if name == "start" else Path(name)
    policy = name if weights is None else f"{weights.parent.name}/{weights.stem}"
    key = {"policy": policy, "precision": arguments.precision, "compute": arguments.compute, "task": arguments.task}
    key |= {"centred_too": arguments.centred}
    if any(key.items() <= record.items() for record in read(arguments.frozen_results)):
        return
    at = Frozen(arguments.model, weights, arguments.task, getattr(torch, arguments.compute))
    reference, number = (int(count) for count in arguments.batches.split(","))
    methods = {method: METHODS[method] for method in ("none", "tis_token", "ais")}
    found = compare(at, arguments.precision, methods, reference, number, arguments.centred)
    with arguments.frozen_results.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps({**key, **found, "commit": commit()}) + "\n")


def ends(record: Record) -> list[tuple[str, float, str]]:
    """The figures of a run that the benchmark ends with."""
    last = record["curve"][-1] if record["curve"] else {}
    cosines = [step["cosine"] for step in record["steps"] if "cosine" in step]
    return [
        *((key, last[key], "reward") for key in ("p", "q") if key in last),
        *([("cosine", sum(cosines) / len(cosines), "of two halves")] if cosines else []),
    ]


def summary(record: Record) -> str:
    return "; ".join(f"{point['step']}: p {point['p']:.2f} q {point['q']:.2f}" for point in record["curve"])


if __name__ == "__main__":
    main()
