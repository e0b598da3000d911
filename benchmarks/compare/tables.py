"""Makes the tables of docs/algorithm.md from the recorded comparisons:  python -m benchmarks.compare.tables

A table stands between `<!-- compare: FILE TASK FORMAT [METHOD ...] -->` and `<!-- end -->`. FILE.jsonl is a file of
cells in benchmarks/results/compare; TASK+N are rollouts N versions late; the method bf16 stands for BF16 rollouts.
`<!-- compare: formats -->` is the table of the formats' mismatch before training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ais.comparison.records import read_records
from ais.comparison.results import shown
from ais.comparison.results.summary import Row, summarize
from ais.comparison.settings import BF16

RESULTS = Path(__file__).parents[1] / "results" / "compare"
DOCUMENT = Path(__file__).parents[2] / "docs" / "algorithm.md"
BLOCK = re.compile(r"(<!-- compare: (?P<query>.*?) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def filled(document: str) -> str:
    """`document` with every table made anew from the recorded cells."""

    def replace(block: re.Match[str]) -> str:
        return f"{block[1]}\n{_table(block['query'].split())}\n"

    return BLOCK.sub(replace, document)


@cache
def recorded(file: str) -> tuple[Row, ...]:
    """The rows of a file of cells."""
    return tuple(summarize(read_records(RESULTS / f"{file}.jsonl")))


def chosen(file: str, task: str, form: str, methods: Sequence[str]) -> list[Row]:
    """The rows of a task and format, in the order of `methods`, or BF16 rollouts and all that there are. The task
    `sort16+4` is sort16 with rollouts that are 4 versions late."""
    name, _, late = task.partition("+")
    rows = [row for row in recorded(file) if (row.task, row.staleness) == (name, int(late or 0))]
    if not methods:
        return [row for row in rows if row.format in (BF16, form)]
    wanted = [(BF16, "none") if method == BF16 else (form, method) for method in methods]
    return [row for place in wanted for row in rows if (row.format, row.method) == place]


def _table(query: Sequence[str]) -> str:
    if query[0] == "formats":
        return formats_markdown(json.loads((RESULTS / "formats.json").read_text(encoding="utf-8"))["formats"])
    file, task, form, *methods = query
    return shown.markdown(chosen(file, task, form, methods))


def formats_markdown(formats: Sequence[Mapping[str, Any]]) -> str:
    """The mismatch of every number format before training."""
    columns = {
        "reward": "reward of the quantised policy", "D": "D", "k3": "k3", "token_ess": "token ESS",
        "sequence_ess": "sequence ESS", "sequence_sd": "sd of the sequence's log-ratio",
    }  # fmt: skip
    lines = [f"| format | {' | '.join(columns.values())} | D of the imitation |", "|---" * (len(columns) + 2) + "|"]
    for row in formats:
        numbers = [f"{row[column]:.3f}" for column in columns]
        lines.append(f"| `{row['precision']}` | {' | '.join(numbers)} | {row['imitation_D']:.0e} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
