"""What corrections do by the length of the answers: to gradients that are known exactly, and to batches.

The chain (benchmarks/long_answers/chain.py) is a world of any length with exact gradients: bias of each correction,
and what a batch of 256 is worth. The rules that mix are also shown batches of log-ratios: slope, share, mean weight,
alpha and its spread over batches.

    ais bench lengths
    ais bench lengths --write docs/algorithm.md       # make the document's table from what was recorded
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.long_answers.chain import make
from benchmarks.long_answers.gradients import Quality, qualities
from benchmarks.long_answers.report import filled
from benchmarks.long_answers.rules import RULES, Response, respond
from benchmarks.support.report import RESULTS, Figure, figure, publish

DRAWN = 4096
"""Answers drawn in a chain for what is not known exactly: sequence weights and variances."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="16,64,256,512,1024,4096,16384", help="tokens, separated by commas")
    parser.add_argument("--mismatch", type=float, default=0.02, help="D, nats per token")
    parser.add_argument("--drawn", type=int, default=DRAWN, help="answers drawn in each chain")
    parser.add_argument("--worlds", type=int, default=3, help="chains of each kind, by seed")
    parser.add_argument("--sequences", type=int, default=64, help="answers of a batch shown to the rules")
    parser.add_argument("--batches", type=int, default=16, help="batches shown to each rule")
    parser.add_argument("--write", type=Path, metavar="FILE", help="measure nothing; make the table of a document")
    arguments = parser.parse_args()
    if document := arguments.write:
        recorded = json.loads((RESULTS / "lengths.json").read_text(encoding="utf-8"))
        document.write_text(filled(document.read_text(encoding="utf-8"), recorded["figures"]), encoding="utf-8")
        print(json.dumps(recorded))
        return
    torch.set_num_threads(1)
    lengths = [int(length) for length in arguments.lengths.split(",")]
    figures: dict[str, Figure] = {}
    for kind in ("random", "adverse"):
        found = {
            length: [
                qualities(make(length, arguments.mismatch, seed, kind == "adverse"), arguments.drawn, seed)
                for seed in range(arguments.worlds)
            ]
            for length in lengths
        }
        figures |= of_chains(kind, found)
    responses = {
        name: {
            length: respond(name, arguments.mismatch, length, arguments.sequences, arguments.batches)
            for length in lengths
        }
        for name in RULES
    }
    for name, by_length in responses.items():
        for length, response in by_length.items():
            figures |= of_rule(name, length, response)
    publish("lengths", figures)


def of_chains(kind: str, found: dict[int, list[list[Quality]]]) -> dict[str, Figure]:
    """Medians over worlds, printed as a table of bias (cosine) and given as figures."""
    methods = [quality.method for quality in next(iter(found.values()))[0]]
    table = Table("method", *(f"{length} tokens" for length in found), title=f"{kind} mismatch: bias (cosine)")
    figures: dict[str, Figure] = {}
    for place, method in enumerate(methods):
        cells = []
        for length, worlds in found.items():
            of_method = [world[place] for world in worlds]
            at = f"{kind}_{method}_{length}"
            values = {key: median(getattr(one, key) for one in of_method) for key in ("bias", "cosine", "efficiency")}
            units = {
                "bias": "of the gradient",
                "cosine": "with the gradient",
                "efficiency": "squared cosine of a batch",
            }
            figures |= {f"{at}_{key}": figure(value, units[key]) for key, value in values.items()}
            cells.append(f"{values['bias']:.3g} ({values['cosine']:.2f})")
        table.add_row(method, *cells)
    Console(width=140).print(table)
    return figures


def of_rule(name: str, length: int, response: Response) -> dict[str, Figure]:
    return {
        f"{name}_{length}_{key}": figure(value, "")
        for key, value in {
            "alpha": response.alpha,
            "alpha_spread": response.alpha_spread,
            "slope": response.slope,
            "share": response.share,
            "mean_weight": response.mean_weight,
            "least_effective_sample": response.least_effective_sample,
        }.items()
    }


if __name__ == "__main__":
    main()
