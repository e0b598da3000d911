"""What a run has produced so far, read from its directory."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ais.contracts.sampling import is_bf16
from ais.launcher.directory.record import RunRecord
from ais.launcher.directory.run_directory import RunDirectory, checkpoints_of
from ais.launcher.directory.steps import read_records

WIDEST_WINDOW = 10
"""Most steps at either end of a run whose mean stands for that end."""
COMPONENTS = "reward_components."
"""Begins the names of the mean scores of a reward's named components, in every record."""


@dataclass(frozen=True)
class Score:
    """Mean reward of one policy on held-out prompts."""

    step: int
    reward_mean: float
    reward_standard_error: float
    prompts: int

    def __str__(self) -> str:
        return f"{self.reward_mean:.3f} ± {self.reward_standard_error:.3f}"


@dataclass(frozen=True)
class Results:
    """Everything a summary or a report tells."""

    directory: RunDirectory
    settings: Mapping[str, Any]
    """The run's settings file."""
    record: RunRecord | None
    steps: Sequence[Mapping[str, Any]]
    evaluations: Mapping[str, Sequence[Score]]
    """Scores by rising step, for each precision; the BF16 policy first."""

    held_out: Sequence[Mapping[str, Any]] = ()
    """Evaluations while training: a record for each step and source."""

    def column(self, key: str) -> list[float]:
        """One quantity of all steps; NaN where a step has none."""
        return [_number(record.get(key)) for record in self.steps]

    def keys(self, prefix: str) -> list[str]:
        """Quantities of any step whose names begin so."""
        return list(dict.fromkeys(key for record in self.steps for key in record if key.startswith(prefix)))

    @property
    def trained(self) -> Sequence[Score]:
        """Scores of the BF16 policy, by rising step; none where it was not evaluated."""
        return next((scores for precision, scores in self.evaluations.items() if is_bf16(precision)), ())

    @property
    def components(self) -> list[str]:
        """Quantities that the reward is made of; none where it is a single one."""
        return found if len(found := self.keys(COMPONENTS)) > 1 else []

    @property
    def window(self) -> int:
        """Steps at either end of the run whose mean stands for that end: the ends never overlap."""
        return min(WIDEST_WINDOW, max(1, len(self.steps) // 2))

    def early(self, key: str) -> float:
        """Mean over the first `window` steps; NaN if none of them has the quantity."""
        return _mean(self.column(key)[: self.window])

    def late(self, key: str) -> float:
        """Mean over the last `window` steps; NaN if none of them has the quantity."""
        return _mean(self.column(key)[-self.window :])

    @property
    def total_steps(self) -> int:
        return int(self.settings["run"]["steps"])

    @property
    def training_seconds(self) -> float:
        """Time the steps took, the wait for the first batch included."""
        return sum(value for value in self.column("step_seconds") if not math.isnan(value))

    @property
    def tokens(self) -> int:
        """Response tokens trained on."""
        return int(sum(value for value in self.column("tokens") if not math.isnan(value)))

    @property
    def model(self) -> Path | None:
        """The final policy, or the newest checkpoint of a run that has not come to its end."""
        return newest_model(self.directory)


def newest_model(directory: RunDirectory) -> Path | None:
    """The final policy, or the newest checkpoint; None where neither is saved yet."""
    saved = [path for path in (*checkpoints_of(directory), directory.model) if path.is_dir()]
    return saved[-1] if saved else None


def read_results(directory: RunDirectory) -> Results:
    """Reads a run, finished or not. Its settings file must be there."""
    record = directory.record
    return Results(
        directory=directory,
        settings=tomllib.loads(directory.config.read_text(encoding="utf-8")),
        record=RunRecord.model_validate_json(record.read_text(encoding="utf-8")) if record.is_file() else None,
        steps=read_records(directory.steps),
        evaluations=_evaluations(read_records(directory.evaluations)),
        held_out=read_records(directory.held_out),
    )


def _evaluations(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Score]]:
    scores: dict[str, dict[int, Score]] = {}
    for record in records:
        score = Score(record["step"], record["reward_mean"], record["reward_standard_error"], record["prompts"])
        scores.setdefault(record["precision"], {})[score.step] = score
    return {
        precision: [scores[precision][step] for step in sorted(scores[precision])]
        for precision in sorted(scores, key=lambda precision: (not is_bf16(precision), precision))
    }


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
