"""From runs to tables: mean and standard deviation over seeds, in the terminal and in a document."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from benchmarks.tiny_grpo.experiment import METHODS

Record = dict[str, Any]
BLOCK = re.compile(r"(<!-- frontier: (?P<query>.*?) -->\n).*?(?=<!-- end -->)", re.DOTALL)
"""A table of a document: `<!-- frontier: TASK PRECISION [METHOD ...] -->` or `<!-- frontier: formats -->`, rows, and
`<!-- end -->`."""


@dataclass(frozen=True)
class Row:
    """One method on one task and precision, over its seeds."""

    method: str
    seeds: int
    values: dict[str, str]
    """Mean and, of two seeds or more, standard deviation, as text."""
    means: dict[str, float]
    deviations: dict[str, float]
    """Standard deviations; 0 for a single seed."""


COLUMNS = {
    "late_p": "p, late",
    "late_q": "q, late",
    "p": "p at the end",
    "q": "q at the end",
    "alpha": "mean alpha",
    "D": "mean D",
    "ess": "sequence ESS",
    "train": "training, CPU ms a step",
}
"""Columns of a table. A score that swings shows in one evaluation by chance: late scores are means of LATE of them."""
LATE = 3
SCORES = ("late_p", "late_q", "p", "q")


def read(file: Path) -> list[Record]:
    """The runs recorded in `file`; none when it is not there."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def rows(records: Sequence[Record], task: str, precision: str, methods: Sequence[str] = ()) -> list[Row]:
    """The methods asked for, in that order, or all there are in the order of METHODS."""
    found = []
    for method in methods or METHODS:
        at = "bf16" if method == "bf16" else precision
        chosen = [
            record
            for record in records
            if (record["task"], record["precision"]) == (task, at)
            and record["method"] == ("none" if method == "bf16" else method)
        ]
        if not chosen:
            continue
        values = {column: [_value(record, column) for record in chosen] for column in COLUMNS}
        found.append(
            Row(
                method=method,
                seeds=len(chosen),
                values={column: _spread(numbers, column) for column, numbers in values.items()}
                | ({} if mixes(method) else {"alpha": "–"}),
                means={column: mean(numbers) for column, numbers in values.items()},
                deviations={column: stdev(values[column]) if chosen[1:] else 0.0 for column in SCORES},
            )
        )
    return found


def _value(record: Record, column: str) -> float:
    if column.startswith("late_"):
        return float(mean(point[column.removeprefix("late_")] for point in record["curve"][-LATE:]))
    if column == "train":
        return 1000 * float(record.get("cpu_seconds", {}).get("train", math.nan)) / float(record["steps"])
    return float(record[column])


def mixes(method: str) -> bool:
    """Whether the method has an alpha."""
    return method in METHODS and METHODS[method].correction.method == "ais"


def _spread(numbers: Sequence[float], column: str) -> str:
    if column == "train":
        timed = [number for number in numbers if not math.isnan(number)]
        return f"{mean(timed):.0f}" if timed else "–"
    if len(numbers) == 1 or column not in SCORES:
        return _short(mean(numbers))
    return f"{_short(mean(numbers))} ± {_short(stdev(numbers))}"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.2f}"


def table(title: str, found: Sequence[Row]) -> Table:
    """For the terminal."""
    result = Table("method", "seeds", *COLUMNS.values(), title=title)
    for row in found:
        result.add_row(row.method, str(row.seeds), *row.values.values())
    return result


def markdown(found: Sequence[Row]) -> str:
    """For a document."""
    lines = [f"| method | seeds | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in found:
        name = "BF16 rollouts" if row.method == "bf16" else f"`{row.method}`"
        lines.append(f"| {name} | {row.seeds} | {' | '.join(row.values.values())} |")
    return "\n".join(lines) + "\n"


def formats_markdown(formats: Sequence[Record]) -> str:
    """The mismatch of every number format, for a document."""
    columns = {
        "reward": "reward of the quantised policy", "D": "D", "k3": "k3", "token_ess": "token ESS",
        "sequence_ess": "sequence ESS", "sequence_sd": "sd of the sequence's log-ratio",
    }  # fmt: skip
    lines = [f"| format | {' | '.join(columns.values())} | D of the imitation |", "|---" * (len(columns) + 2) + "|"]
    for row in formats:
        numbers = [f"{row[column]:.3f}" for column in columns]
        lines.append(f"| `{row['precision']}` | {' | '.join(numbers)} | {row['imitation_D']:.0e} |")
    return "\n".join(lines) + "\n"


def filled(document: str, records: Sequence[Record], formats: Sequence[Record]) -> str:
    """`document` with every frontier table made anew."""

    def replace(block: re.Match[str]) -> str:
        if block["query"] == "formats":
            return block[1] + "\n" + formats_markdown(formats) + "\n"
        task, precision, *methods = block["query"].split()
        return block[1] + "\n" + markdown(rows(records, task, precision, methods)) + "\n"

    return BLOCK.sub(replace, document)


def figures(records: Sequence[Record]) -> dict[str, dict[str, float | str | None]]:
    """p and q of every method; the reference is what BF16 rollouts make of the same task."""
    result: dict[str, dict[str, float | str | None]] = {}
    for task in sorted({record["task"] for record in records}):
        reference = next((row.means["late_p"] for row in rows(records, task, "bf16", ["bf16"])), None)
        for precision in sorted({record["precision"] for record in records if record["task"] == task}):
            for row in rows(records, task, precision):
                for score in SCORES:
                    value = row.means[score]
                    result[f"{task}_{precision}_{row.method}_{score}"] = {
                        "value": value,
                        "unit": "reward",
                        "reference": reference,
                        "ratio": value / reference if reference else None,
                    }
    return result
