"""GRPO on a masked diffusion policy whose rollouts are quantised: corrected against uncorrected.

A bidirectional transformer of 127,000 parameters sorts digits, as LLaDA would: from a completion that is all masks,
unmasking two tokens a step in random order. It is warm-started by demonstrations, sampled by the torch engine's own
roundings, and trained in BF16 on log-probs as `ais_core.diffusion` estimates them. Told are the rewards of both
policies before and after, how far apart the two are, what the correction makes of it, and how much of the exact
log-ratios of the unmasking paths the estimates see.

    ais bench diffusion                                    # four ways, three seeds: minutes
    ais bench diffusion --ways e5m2/none e5m2/ais --seeds 1
    ais bench diffusion --ways e4m3/ais --results FILE     # another format, recorded elsewhere

Each run is a line of benchmarks/results/diffusion.jsonl. Runs that are there are not made again, so a study that was
stopped goes on where it was (with --start FILE without another warm start).
`python -m benchmarks.diffusion.records` makes the tables of docs/diffusion.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from ais.collector.prompts.prompts import Split
from ais.collector.tasks.sort import SortTask
from ais.comparison.machine import commit
from ais.comparison.settings import FORMATS
from benchmarks.diffusion import records
from benchmarks.diffusion.network import Masters, Shape
from benchmarks.diffusion.sampling import Sampler
from benchmarks.diffusion.training import METHODS, Cell, Run
from benchmarks.diffusion.warmstart import warm_start
from benchmarks.support.report import RESULTS, Figure, figure, machine

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "examples" / "sort16" / "model" / "tokenizer.json"
WAYS = ("bf16/none", "e5m2/none", "e5m2/tis", "e5m2/ais")
TOKENS_A_STEP = 2


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    shape = Shape(tokenizer.get_vocab_size() + 1, positions=2 * arguments.digits + 2)
    sampler = Sampler(tokenizer, max(arguments.digits // TOKENS_A_STEP, 1))
    demonstrations, held_out = (SortTask(arguments.digits, 0, one) for one in (Split.DEMONSTRATION, Split.HELD_OUT))
    start = warm_start(arguments.start, shape, sampler, demonstrations, held_out, arguments.accuracy)
    cells = wanted(arguments, digest(start))
    done = [one["cell"] for one in records.read(arguments.results)]
    left = [cell for cell in cells if cell.as_json() not in done]
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    origin = {"machine": machine(), "commit": commit()}
    for number, cell in enumerate(left, start=1):
        name = f"{number} of {len(left)}: {cell.format}/{cell.method}, seed {cell.seed}"
        record = Run(cell, shape, start, sampler).train(lambda line, name=name: tell(f"{name}, {line}"))  # type: ignore[misc]
        with arguments.results.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(record | origin) + "\n")
    found = [one for one in records.read(arguments.results) if one["cell"] in [cell.as_json() for cell in cells]]
    show(found)
    print(json.dumps({"bench": "diffusion", **origin, "figures": figures(found)}))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ways", nargs="+", default=list(WAYS), choices=[f"{form}/{method}" for form in FORMATS for method in METHODS],
        metavar="FORMAT/METHOD", help=f"formats {', '.join(FORMATS)}; methods {', '.join(METHODS)}",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--digits", type=int, default=8, help="to sort; an even number")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--groups", type=int, default=8, help="prompts in a batch, eight completions each")
    parser.add_argument(
        "--draws", type=int, default=2, help="masks of each sequence that its log-probs are a mean over"
    )
    parser.add_argument("--prompt-probability", type=float, default=0.15, help="of a prompt's token to be masked")
    parser.add_argument("--evaluate-every", type=int, default=15, help="steps")
    parser.add_argument("--held-out", type=int, default=256, help="prompts of an evaluation")
    parser.add_argument("--accuracy", type=float, default=0.25, help="the warm start ends there")
    parser.add_argument(
        "--start", type=Path, help="keep the warm-started policy in this file, or begin with the one there"
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "diffusion.jsonl")
    return parser.parse_args()


def wanted(arguments: argparse.Namespace, start: str) -> list[Cell]:
    """The cells asked for, seed by seed, so that a study that is stopped has whole seeds."""
    return [
        Cell(
            method=way.partition("/")[2], format=way.partition("/")[0], seed=seed, start=start,
            digits=arguments.digits, unmasking_steps=max(arguments.digits // TOKENS_A_STEP, 1), steps=arguments.steps,
            groups=arguments.groups, draws=arguments.draws, prompt_probability=arguments.prompt_probability,
            evaluate_every=arguments.evaluate_every, held_out=arguments.held_out,
        )
        for seed in range(arguments.seeds)
        for way in arguments.ways
    ]  # fmt: skip


def digest(masters: Masters) -> str:
    """What tells one warm-started policy from another."""
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(masters):
        found.update(bytes(masters[name].contiguous().view(torch.uint8).flatten().tolist()))
    return found.hexdigest()


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(found: Sequence[records.Record]) -> None:
    for head, rows in records.TABLES.values():
        table = Table(*(name.replace("\\", "") for name in head))
        for row in rows(found):
            table.add_row(*(cell.replace("`", "") for cell in row))
        Console().print(table)


def figures(found: Sequence[records.Record]) -> dict[str, Figure]:
    return {
        f"{one['cell']['format']}_{one['cell']['method']}_{one['cell']['seed']}_{name}": figure(
            records.score(one, policy), "reward", one["evaluations"][0][policy] or None
        )
        for one in found
        for name, policy in (("p", 1), ("q", 2))
    }


if __name__ == "__main__":
    main()
