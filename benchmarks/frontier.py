"""What each method makes of two policies: the BF16 one that is trained (p) and the quantised one that samples (q).

GRPO on the demo's task and scale, one process, BF16 trainer and a truly quantised sampler: the parts are the trainer's
and the torch engine's own (benchmarks/tiny_grpo). A run is a line of benchmarks/results/frontier.jsonl; runs that are
there are not made again.

    python benchmarks/frontier.py --methods none,tis_sequence --precisions w4a8 --seeds 5
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tiny_grpo.experiment import METHODS, PRECISIONS, Experiment
from tiny_grpo.training import run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "frontier.jsonl"
MODELS = {"sort16": HERE.parent / "examples" / "sort16" / "model"}


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=HERE
    )
    return found.stdout.strip() or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="", help="names of tiny_grpo.experiment.METHODS, separated by commas")
    parser.add_argument("--precisions", default="w4a8", help=f"of {', '.join(PRECISIONS)}")
    parser.add_argument("--task", default="sort16")
    parser.add_argument("--model", type=Path, help="warm-started model of the task; sort16 has one")
    parser.add_argument("--seeds", default="2", help="how many, from 0; or a range such as 2-4")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first, _, last = arguments.seeds.rpartition("-")
    seeds = range(int(first), int(last) + 1) if first else range(int(last))
    model = arguments.model or MODELS[arguments.task]
    for seed in seeds:
        for precision in arguments.precisions.split(","):
            for method in filter(None, arguments.methods.split(",")):
                wanted = Experiment(method, precision, seed, arguments.task, arguments.steps)
                done = [record for record in read(arguments.results) if wanted.key.items() <= record.items()]
                if done or method not in METHODS:
                    continue
                record = {**run(wanted, model), "commit": commit()}
                with arguments.results.open("a") as opened:
                    opened.write(json.dumps(record) + "\n")
                print(f"{method} {precision} {seed}: p {record['p']:.3f} q {record['q']:.3f} {record['seconds']}", flush=True)


if __name__ == "__main__":
    main()
