"""What a step of the trainer gains where a prompt is read once for all responses of its group
(`trainer.compute.share_prompts`), by the lengths of both.

A random Qwen3 is trained on made-up groups, with a row for each response and with one for each prompt, in turns.
Seconds are those of the forward and the backward pass on `--threads` threads; the ratio is to a row for each response,
and beside it stands the least that it could be: the share of tokens that are left to read.

    ais bench prompts                                     # prints a table, writes benchmarks/results/prompts.json
    ais bench prompts --model models/smollm2-135m-instruct --lengths 45x20    # of a model of yours: prompts_NAME.json
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table

from ais.contracts.sampling import Precision
from ais.contracts.trajectory import ScoredGroup
from ais.runtime.settings import RunSettings
from ais.trainer.learning.learner import Learner
from ais.trainer.learning.phases import PhaseClock
from ais.trainer.policy.policy import Policy
from ais.trainer.settings import TrainerSettings
from ais.trainer.weights.snapshot import Staging
from ais_core.settings import CorrectionSettings, MixingSettings
from benchmarks.gpu.groups import Shape, made_up
from benchmarks.lora import write_model
from benchmarks.support.report import Figure, figure, publish, spread

LAYERS = 2
TOKENS_PER_MICROBATCH = 4096
WAYS = {"apart": False, "shared": True}
"""Whether prompts are shared."""


def left(shape: Shape) -> float:
    """Share of the tokens that are read when each prompt is read once."""
    read = shape.response - 1
    return (shape.prompt + shape.samples * read) / (shape.samples * (shape.prompt + read))


def learner_of(model: Path, staging: Path, shared: bool) -> Learner:
    compute = {"device": "cpu", "tokens_per_microbatch": TOKENS_PER_MICROBATCH, "share_prompts": shared}
    settings = TrainerSettings.model_validate({"compute": compute})
    # The groups are as likely as the policy found them before its first step, and there are several.
    correction = CorrectionSettings(method="none", mixing=MixingSettings(mismatch_limit=math.inf))
    return Learner(Policy.load(model, "cpu"), RunSettings(model=model), settings, correction, Staging(staging))


def seconds_of(learner: Learner, groups: list[ScoredGroup]) -> float:
    """What the passes of one step take."""
    clock = PhaseClock()
    figures = learner.step(groups, clock).figures
    assert figures.updates == 1, "the step was left out"
    return clock.finish()[1]["forward_backward"]


def measure(shape: Shape, learners: dict[str, Learner], rounds: int) -> dict[str, list[float]]:
    """Seconds by way, after a round that does not count."""
    groups = {way: made_up(one._policy, shape, TOKENS_PER_MICROBATCH, Precision()) for way, one in learners.items()}
    found: dict[str, list[float]] = {way: [] for way in learners}
    for number in range(rounds + 1):
        for way, learner in learners.items():
            seconds = seconds_of(learner, groups[way])
            if number:
                found[way].append(seconds)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="Hugging Face directory to train in place of the random model")
    parser.add_argument("--lengths", default="16x64,64x64,256x32", help="tokens of prompts and of responses")
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--samples", type=int, default=8, help="responses to each prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lengths = {name: [int(part) for part in name.split("x")] for name in arguments.lengths.split(",")}
    shapes = {name: Shape(arguments.groups, arguments.samples, *pair) for name, pair in lengths.items()}
    table = Table("prompt x response", "apart, s", "shared, s", "ratio", "tokens left", title="a step's passes")
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as directory:
        model = arguments.model or write_model(Path(directory) / "model", LAYERS)
        learners = {way: learner_of(model, Path(directory), shared) for way, shared in WAYS.items()}
        for name, shape in shapes.items():
            found = measure(shape, learners, arguments.rounds)
            apart = spread(found["apart"], "s")
            figures[f"{name}_apart"] = apart
            figures[f"{name}_shared"] = shared = spread(found["shared"], "s", float(apart["value"] or 0.0))
            figures[f"{name}_tokens"] = figure(left(shape), "of the tokens apart")
            row = (apart["value"], shared["value"], shared["ratio"], left(shape))
            table.add_row(name, *(f"{value:.2f}" for value in row))
            print(f"{name}: {shared['ratio']:.2f}", file=sys.stderr, flush=True)
    Console().print(table)
    publish("prompts", figures, file=f"prompts_{arguments.model.name}" if arguments.model else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
