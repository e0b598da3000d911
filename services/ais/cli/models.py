"""Commands about one model: make the demo's, score a saved one."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ais.cli.options import Config, Overrides


def evaluate(
    model: Annotated[Path, typer.Argument(help="Hugging Face model directory.", metavar="MODEL_DIR")],
    precision: Annotated[
        str, typer.Option(help="Weight format to sample in: bf16, e4m3, e5m2, int8 or e2m1.", metavar="FORMAT")
    ] = "bf16",
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts, one response each.")] = 512,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Score a saved model on held-out prompts: mean reward and its standard error.

    A real rollout replica samples the responses. The prompts are those that no training run draws.

        ais eval runs/demo/checkpoints/step-000150
        ais eval runs/demo/checkpoints/step-000150 --precision e4m3 -c runs/demo/config.toml
    """
    from ais.settings import load

    formats = [f"rollout.precision.weights={precision}"]
    formats += ["rollout.precision.kv_cache=bf16"] if precision == "bf16" else []
    name = f"eval-{os.getpid()}-{time.time_ns()}"  # not to meet another run's keys on a shared Redis
    settings = load(config, [*(overrides or ()), *formats, f"run.model={model}", f"run.name={name}"])
    from ais.trials import evaluate_settings

    sys.exit(evaluate_settings(settings, prompts))


def warmstart(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Hugging Face directory to write.", metavar="DIR")
    ] = Path("examples/sort16/model"),
    task: Annotated[str, typer.Option(help="sortN: sort N digits.")] = "sort16",
    noise: Annotated[float, typer.Option(min=0, max=1, help="Share of the answers' digits made wrong.")] = 0.08,
    steps: Annotated[int, typer.Option(min=1, help="Supervised steps.")] = 600,
    batch_size: Annotated[int, typer.Option(min=1, help="Demonstrations a step.")] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Make the small policy the demo starts from: supervised on noisy demonstrations, about two minutes.

    ais warmstart -o examples/sort16/model
    """
    from ais.launcher.warmstart import warm_start

    sys.exit(warm_start(output, task=task, noise=noise, steps=steps, batch_size=batch_size, seed=seed))
