"""What a tracker is told of a line of the run's files: names and numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EVALUATION = "evaluation/"
"""Begins the names of the figures of a saved checkpoint, by precision."""
HELD_OUT = "held_out/"
"""Begins the names of the figures of an evaluation while training, by source."""
_HISTOGRAM = "log_ratio_counts."
"""Begins the names of the counts of a histogram, which are no figures of their own."""
_NO_FIGURES = frozenset({"step", "version", "time"})
"""Where an entry belongs, and when it was made: a tracker has its own places for these."""


@dataclass(frozen=True)
class Entry:
    """The figures of one step, or of one evaluation."""

    key: str
    """The same for a line that takes the place of this one."""
    made: float
    """Tells such a line from this one: Unix time at which the figures were made, seconds; 0 if the line has none."""
    step: int
    figures: Mapping[str, float]
    """By the name that each has in the file; those of an evaluation behind `evaluation/`, and who was evaluated."""


def of_step(record: Mapping[str, Any]) -> Entry:
    """The entry of a line of steps.jsonl, flattened."""
    step = int(record["step"])
    return Entry(f"step/{step}", float(record.get("time") or 0.0), step, _numbers(record, ""))


def of_evaluation(record: Mapping[str, Any]) -> Entry:
    """The entry of a line of evaluations.jsonl."""
    step, group = int(record["step"]), f"{EVALUATION}{record['precision']}/"
    return Entry(f"{group}{step}", float(record.get("time") or record["reward_mean"]), step, _numbers(record, group))


def of_held_out(record: Mapping[str, Any]) -> Entry:
    """The entry of a line of held_out.jsonl: one source of an evaluation while training."""
    step, group = int(record["step"]), f"{HELD_OUT}{record['source']}/"
    return Entry(f"{group}{step}", float(record["time"]), step, _numbers(record, group))


def _numbers(record: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of a line. A truth is 1 or 0; what was not measured is left out, as are names and lists."""
    return {
        prefix + name: float(value)
        for name, value in record.items()
        if isinstance(value, bool | int | float) and name not in _NO_FIGURES and not name.startswith(_HISTOGRAM)
    }
