"""Why policies are lost where rollouts are quantised and answers have tens of tokens: trainings taken apart.

Each run is one line of benchmarks/results/collapse.jsonl, with the make-up of every step's gradient; runs that are
there are not made again. The interventions change one thing of a run: the learning rate, what it is multiplied by,
Adam's memory, the weight of the tokens where answers first go wrong, or the prompts that are trained on.

    ais warmstart --task sort48 --noise 0.02 --batch-size 64 -o runs/sort48
    ais bench collapse --model runs/sort48 --runs tis_token,tis_token+signal --seeds 2
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

from ais_core.settings import CorrectionSettings, MixingSettings
from benchmarks.support.report import RESULTS, commit, figure, machine
from benchmarks.tiny_grpo.dissection import Study, run
from benchmarks.tiny_grpo.report import Record, read

RECORDS = RESULTS / "collapse.jsonl"
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
    parser.add_argument("--results", type=Path, default=RECORDS)
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
    if wanted and arguments.model is None:
        parser.error("--model: runs need a warm-started model")
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
    found = {
        f"{record['name']}_{record['seed']}_{key}": figure(value, unit)
        for record in records
        for key, value, unit in ends(record)
    }
    print(json.dumps({"bench": "collapse", "machine": machine(), "commit": commit(), "figures": found}))


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
