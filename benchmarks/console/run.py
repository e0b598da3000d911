"""A made-up run, in the files of its directory, as long and as large as wanted."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ais.launcher.directory.record import record_of
from ais.launcher.directory.run_directory import RunDirectory
from ais.runtime.files import replace_file

CURVES = (
    *(
        "reward_mean",
        "alpha",
        "severity",
        "reliability",
        "amplification",
        "log_ratio_abs_mean",
        "ratio_cv",
        "weight_cv",
    ),
    *("ess_ratio_raw", "ess_ratio_applied", "sequence_ess_ratio_raw", "sequence_ess_ratio_applied", "kl_k1", "kl_k3"),
    *("effective_sequences", "trajectories", "weighted_share", "weight_slope", "weight_mean", "entropy"),
    *("zero_variance_share", "truncated_share", "response_length_mean", "gradient_norm", "learning_rate"),
    *("tokens_per_second", "staleness_mean", "staleness_max", "queue_depth", "step_seconds"),
)
PHASES = ("wait", "prepare", "forward_backward", "correction", "optimizer", "probe", "serialise", "other")
BOUNDS = ("-1", "-0.1", "-0.01", "0", "0.01", "0.1", "1", "+Inf")


def write_run(path: Path, steps: int, replicas: int) -> RunDirectory:
    """A run that goes on, with so many steps so far."""
    run = RunDirectory(path)
    run.logs.mkdir(parents=True)
    run.config.write_text(f"[run]\nsteps = {10 * steps}\n", encoding="utf-8")
    record_of(path.name).write(run.record)
    with run.steps.open("w", encoding="utf-8") as file:
        file.writelines(step_lines(1, steps))
    write_fleet(run, steps, replicas)
    return run


def step_lines(first: int, last: int) -> Iterator[str]:
    """Lines of steps.jsonl: each curve is a wave of its own."""
    for step in range(first, last + 1):
        curves = {key: 0.5 + 0.4 * math.sin(step / (50 + 7 * place)) for place, key in enumerate(CURVES)}
        phases = {phase: 0.1 + 0.05 * math.cos(step / (9 + place)) for place, phase in enumerate(PHASES)}
        counts = {bound: 100 + (step * place) % 50 for place, bound in enumerate(BOUNDS)}
        record: dict[str, Any] = {
            "step": step,
            "version": step,
            "time": time.time(),
            "incarnation": 1,
            "replicas": 1000,
        }
        yield json.dumps(record | curves | {"phase_seconds": phases, "log_ratio_counts": counts}) + "\n"


def write_fleet(run: RunDirectory, version: int, replicas: int) -> None:
    """The fleet at that version; load changes with it."""
    lines = [
        {
            "replica_id": f"replica-{number}",
            "engine": "torch",
            "precision": "e4m3",
            "version": version - number % 2,
            "ready": number % 100 > 0,
            "slots": 64,
            "running": (version + number) % 65,
            "waiting": 0,
            "tokens": 1000 + number,
            "log_ratio_abs_mean": 0.02,
        }
        for number in range(replicas)
    ]
    replace_file(run.fleet, json.dumps({"time": time.time(), "version": version, "replicas": lines}))
