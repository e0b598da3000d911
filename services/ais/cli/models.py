"""Commands about one model: make the demo's, score a saved one."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ais.cli.options import Config, Overrides, fail, find_run
from ais.runtime.exits import EXIT_UNAVAILABLE


def evaluate(
    model: Annotated[Path, typer.Argument(help="Hugging Face model directory.", metavar="MODEL_DIR")],
    precision: Annotated[
        str, typer.Option(help="Weight format to sample in: bf16, e4m3, e5m2, int8 or e2m1.", metavar="FORMAT")
    ] = "bf16",
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts of each source.")] = 512,
    samples: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Responses to each, for pass@k; instead of evaluation.samples.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.01, max=100.0, help="Instead of evaluation.temperature.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="Every response, with reward and log-probs: .jsonl or .parquet.", metavar="FILE")
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Score a saved model on held-out prompts: mean reward and its standard error.

    A real rollout replica samples the responses. The prompts are those that no training run draws.

        ais eval runs/demo/checkpoints/step-000150
        ais eval runs/demo/checkpoints/step-000150 --precision e4m3 -c runs/demo/config.toml
        ais eval runs/demo/checkpoints/best -c runs/demo/config.toml --samples 8 --records responses.jsonl
    """
    from ais.settings import load

    asked = ["evaluation.metric=reward_mean"]
    asked += [] if samples is None else [f"evaluation.samples={samples}"]
    asked += [] if temperature is None else [f"evaluation.temperature={temperature}"]
    name = f"eval-{os.getpid()}-{time.time_ns()}"  # not to meet another run's keys on a shared Redis
    settings = load(
        config, [*(overrides or ()), *_formats(precision), *asked, f"run.model={model}", f"run.name={name}"]
    )
    from ais.trials import evaluate_settings

    sys.exit(evaluate_settings(settings, prompts, records.absolute() if records else None))


def chat(
    model: Annotated[str, typer.Argument(help="Name of a run, its directory, or a model's.", metavar="RUN|MODEL_DIR")],
    precision: Annotated[
        str, typer.Option(help="Weight format to sample in: bf16, e4m3, e5m2, int8 or e2m1.", metavar="FORMAT")
    ] = "bf16",
    temperature: Annotated[float | None, typer.Option(min=0.01, max=100.0, help="Instead of the settings'.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, instead of the settings'.")] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Talk to a saved model in the terminal, through a rollout replica, in its chat template where it has one.

    A run is talked to with its own settings: its final model, or its newest checkpoint. Each answer appears as it is
    sampled. Ctrl-D or Ctrl-C ends the conversation and every process.

        ais chat demo
        ais chat runs/demo/checkpoints/best --precision e4m3 --temperature 0.3
    """
    from ais.launcher.report.results import newest_model
    from ais.settings import load

    directory = find_run(model, config, overrides)
    wanted = [*(overrides or ()), *_formats(precision), f"run.name=chat-{os.getpid()}-{time.time_ns()}"]
    wanted += [] if temperature is None else [f"collector.sampling.temperature={temperature}"]
    wanted += [] if max_new_tokens is None else [f"collector.sampling.max_new_tokens={max_new_tokens}"]
    saved = Path(model)
    if directory is not None:
        config = config or directory.config
        found = newest_model(directory)
        if found is None:
            fail(f"{directory.path} has saved no model yet", EXIT_UNAVAILABLE)
        saved = found
    settings = load(config, [*wanted, f"run.model={saved}"])
    from ais.trials import chat_with

    sys.exit(chat_with(settings))


def _formats(precision: str) -> list[str]:
    """Settings of a replica that samples in that weight format."""
    return [f"rollout.precision.weights={precision}"] + (
        ["rollout.precision.kv_cache=bf16"] if precision == "bf16" else []
    )


def warmstart(
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Hugging Face directory to write; run.model if absent.", metavar="DIR"),
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Make the small policy a run starts from: supervised on demonstrations of its task that have mistakes in them.

    launcher.warm_start says how large it is to be, and how often right: the demo's takes two minutes.

        ais warmstart -c examples/sort_swaps/config.toml
        ais warmstart -o runs/sort48 --set collector.task.digits=48 --set launcher.warm_start.batch_size=64
    """
    from ais.settings import load
    from ais.warming import make_model

    settings = load(config, overrides or ())
    sys.exit(make_model(settings, output or settings.run.model))
