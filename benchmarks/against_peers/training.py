"""A problem as each contender trains it: same model, prompts, batch, optimizer and learning rate."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ais.collector.prompts.prompts import Question, Split
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer
from ais.collector.tasks.task import open_splits
from ais.runtime.exits import UnavailableError
from ais.settings import load
from benchmarks.against_peers.course import Course, follow
from benchmarks.against_peers.problem import Problem

UNREACHABLE = 2.0
"""A target that no reward reaches."""


@dataclass(frozen=True)
class Training:
    """What all trainings have in common."""

    problem: Problem
    directory: Path
    """Where they write."""
    steps: int
    """They end at the latest after so many."""
    target: float = UNREACHABLE
    """Reward that ends them."""


def ours(contender: str, how: Training, seed: int, most_seconds: float) -> Course:
    """`ais run` of the example, all its processes."""
    name = f"{contender}-{seed}"
    settings: dict[str, object] = {
        "run.directory": how.directory,
        "run.name": name,
        "run.seed": seed,
        "run.steps": how.steps,
        "trainer.optimizer.pace": "constant",  # as TRL's
        "launcher.evaluation_prompts": 0,
        "tracking.trackers": "[]",
    }
    settings |= {f"rollout.precision.{key}": value for key, value in how.problem.precisions[contender].items()}
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "ais.cli", "run", "-c", str(how.problem.config), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return follow(command, environment, how.directory / name / "steps.jsonl", how.target, most_seconds)


def by_trl(python: Path, threads: int, how: Training, seed: int, most_seconds: float, *, bf16: bool = True) -> Course:
    """TRL's `GRPOTrainer` in BF16 or in float32, in one process; see `trl_run.py`."""
    home = how.directory / f"trl-{'bf16' if bf16 else 'float32'}-{seed}"
    home.mkdir()
    log = home / "steps.jsonl"
    job = home / "job.json"
    job.write_text(json.dumps(trl_job(how, log, seed, threads) | {"bf16": bf16}), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    script = Path(__file__).with_name("trl_run.py")
    return follow([str(python), str(script), str(job)], environment, log, how.target, most_seconds)


def trl_job(how: Training, log: Path, seed: int, threads: int) -> dict[str, object]:
    """The example's settings, for a process that cannot read them. Prompts are texts, inside the chat template if the
    model has one. Raises UnavailableError where the model is not there."""
    settings = load(how.problem.config, ())
    run, optimizer = settings.run, settings.trainer.optimizer
    if not (run.model / "config.json").is_file():
        raise UnavailableError(
            f"{run.model} is no model directory: {how.problem.config} says at its top how to make it"
        )
    tokenizer = open_tokenizer(run.model, settings.collector.prompt)
    (task,) = open_splits(settings.collector.task, seed, (Split.TRAIN,), lambda _question: True)
    drawn = [task.prompt(ordinal) for ordinal in range(how.steps * run.groups_per_batch)]
    return {
        "model": str(run.model),
        "log": str(log),
        "threads": threads,
        "prompts": [(_text(tokenizer, prompt.question), prompt.answer) for prompt in drawn],
        "pattern": how.problem.pattern,
        "seed": seed,
        "steps": how.steps,
        "groups": run.groups_per_batch,
        "samples": run.samples_per_group,
        "max_new_tokens": settings.collector.sampling.max_new_tokens,
        "learning_rate": optimizer.learning_rate,
        "warmup_steps": optimizer.warmup_steps,
        "betas": (optimizer.beta1, optimizer.beta2),
        "max_grad_norm": optimizer.max_grad_norm,
    }


def _text(tokenizer: PolicyTokenizer, question: Question) -> str:
    if tokenizer.chats:
        return tokenizer.render(tokenizer.messages(question), then_turn=True)
    assert isinstance(question, str)
    return question
