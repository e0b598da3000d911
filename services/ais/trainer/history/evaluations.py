"""The evaluations while training, in `held_out.jsonl` of the run's directory: a line for each step and source.

Lines are in the order of their steps. Those of steps that are trained again are taken away, and evaluated again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ais.contracts.evaluation.results import EvaluationResult
from ais.runtime.files import replace_file

HELD_OUT_FILE = "held_out.jsonl"


def lines_of(result: EvaluationResult) -> list[dict[str, Any]]:
    """A line for each source, flat but for pass@k."""
    return [
        {
            "step": result.step,
            "source": score.source,
            "first_version": result.first_version,
            "last_version": result.last_version,
            "precision": result.precision,
            "prompts": score.prompts,
            "unanswered": score.unanswered,
            "samples": score.samples,
            "reward_mean": score.reward.mean,
            "reward_interval": score.reward.interval,
            **{f"pass@{k}": estimate.mean for k, estimate in score.passed.items()},
            **{f"pass@{k}_interval": estimate.interval for k, estimate in score.passed.items()},
            "reward_components": {name: estimate.mean for name, estimate in score.components.items()},
            "response_length_mean": score.response_length_mean,
            "truncated_share": score.truncated_share,
            "time": result.time,
            "seconds": result.seconds,
        }
        for score in result.sources
    ]


def append(directory: Path, result: EvaluationResult) -> None:
    """Adds the lines of a result, all or none of them, and waits until they are on the disk."""
    with (directory / HELD_OUT_FILE).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines_of(result)))
        file.flush()
        os.fsync(file.fileno())


def rewind(directory: Path, version: int) -> None:
    """Forgets the lines of steps after `version`, and what a crash has cut short."""
    file = directory / HELD_OUT_FILE
    if file.exists():
        replace_file(file, "".join(f"{json.dumps(line)}\n" for line in _lines(file) if line["step"] <= version))


def values(directory: Path, metric: str) -> dict[int, float]:
    """The figure that `metric` names, by step."""
    source, _, name = metric.rpartition("/")
    found: dict[int, list[float]] = {}
    for line in _lines(directory / HELD_OUT_FILE):
        if (not source or line["source"] == source) and line.get(name) is not None:
            found.setdefault(line["step"], []).append(line[name])
    return {step: sum(known) / len(known) for step, known in found.items()}


def _lines(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield json.loads(line)
    except FileNotFoundError:
        return
