"""The demo as each contender trains it: same model, prompts, batch, optimizer and learning rate."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ais.collector.prompts.prompts import Split
from ais.collector.tasks.task import open_splits
from ais.settings import load
from benchmarks.against_peers.course import Course, follow

CONFIG = Path(__file__).parents[2] / "examples" / "sort16" / "config.toml"
PRECISIONS = {"fp8": "e4m3", "bf16": "bf16"}
"""Formats of weights and activations of our rollouts, by contender."""


@dataclass(frozen=True)
class Training:
    """What all trainings have in common."""

    directory: Path
    """Where they write."""
    steps: int
    """They end at the latest after so many."""
    target: float
    """Reward that ends them."""


def ours(contender: str, how: Training, seed: int, most_seconds: float) -> Course:
    """`ais run` of the demo, all its processes."""
    precision = PRECISIONS[contender]
    name = f"{contender}-{seed}"
    settings: dict[str, object] = {
        "run.directory": how.directory,
        "run.name": name,
        "run.seed": seed,
        "run.steps": how.steps,
        "rollout.precision.weights": precision,
        "rollout.precision.activations": precision,
        "launcher.evaluation_prompts": 0,
        "tracking.trackers": "[]",
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "ais.cli", "run", "-c", str(CONFIG), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return follow(command, environment, how.directory / name / "steps.jsonl", how.target, most_seconds)


def by_trl(python: Path, threads: int, how: Training, seed: int, most_seconds: float) -> Course:
    """TRL's `GRPOTrainer` in BF16, in one process; see `trl_run.py`."""
    home = how.directory / f"trl-{seed}"
    home.mkdir()
    log = home / "steps.jsonl"
    job = home / "job.json"
    job.write_text(json.dumps(trl_job(log, seed, how.steps, threads)), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    script = Path(__file__).with_name("trl_run.py")
    return follow([str(python), str(script), str(job)], environment, log, how.target, most_seconds)


def trl_job(log: Path, seed: int, steps: int, threads: int) -> dict[str, object]:
    """The demo's settings, for a process that cannot read them."""
    settings = load(CONFIG, ())
    run, optimizer = settings.run, settings.trainer.optimizer
    (task,) = open_splits(settings.collector.task, seed, (Split.TRAIN,), lambda _question: True)
    drawn = [task.prompt(ordinal) for ordinal in range(steps * run.groups_per_batch)]
    return {
        "model": str(run.model),
        "log": str(log),
        "threads": threads,
        "prompts": [(prompt.question, prompt.answer) for prompt in drawn],
        "seed": seed,
        "steps": steps,
        "groups": run.groups_per_batch,
        "samples": run.samples_per_group,
        "max_new_tokens": settings.collector.sampling.max_new_tokens,
        "learning_rate": optimizer.learning_rate,
        "warmup_steps": optimizer.warmup_steps,
        "betas": (optimizer.beta1, optimizer.beta2),
        "max_grad_norm": optimizer.max_grad_norm,
    }
