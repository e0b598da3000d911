"""What was recorded, a line for each cell, and the tables made of it in docs/diffusion.md:

python -m benchmarks.diffusion.records
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ais.comparison.results.statistics import estimate

Record = dict[str, Any]
Way = tuple[str, str, int]
"""Format, method, groups of a batch."""

FILE = Path(__file__).parents[1] / "results" / "diffusion.jsonl"
DOCUMENT = Path(__file__).parents[2] / "docs" / "diffusion.md"
BLOCK = re.compile(r"(<!-- diffusion: (?P<name>\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
LATE = 3
"""The score of a run is the mean of its last evaluations, so many: a single one swings by chance."""
NOTHING = "–"


def read(file: Path = FILE) -> list[Record]:
    """The recorded cells; none where there is no file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def ways(records: Sequence[Record]) -> dict[Way, list[Record]]:
    """The records of each way, in the order in which they were first met, small batches first."""
    found: dict[Way, list[Record]] = {}
    for one in sorted(records, key=lambda one: one["cell"]["groups"]):
        cell = one["cell"]
        found.setdefault((cell["format"], cell["method"], cell["groups"]), []).append(one)
    return found


def score(record: Record, policy: int) -> float:
    """The late score of a run: `policy` 1 is the one trained, 2 the one that samples."""
    return fmean(one[policy] for one in record["evaluations"][-LATE:])


def label(way: Way) -> tuple[str, str]:
    """How a table calls it, and its groups."""
    form, method, groups = way
    return "BF16 rollouts" if form == "bf16" else f"`{method}`, {form.upper()}", str(groups)


HEAD = (
    "rollouts", "groups", "seeds", "p before", "q before", "p", "q", "mean \\|log-ratio\\|, first and last",
    "alpha", "weight",
)  # fmt: skip


def learnt(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """A row for each way: rewards of both policies before and after, the mismatch as estimated, and the weights."""
    return [
        (
            *label(way),
            str(len(found)),
            _mean(found, lambda one: one["evaluations"][0][1]),
            _mean(found, lambda one: one["evaluations"][0][2]),
            _interval([score(one, 1) for one in found]),
            _interval([score(one, 2) for one in found]),
            f"{_mean(found, lambda one: one['steps']['mismatch'][0])}, "
            f"{_mean(found, lambda one: one['steps']['mismatch'][-1])}",
            NOTHING
            if found[0]["steps"]["alpha"][0] is None
            else _mean(found, lambda one: fmean(one["steps"]["alpha"])),
            _mean(found, lambda one: fmean(one["steps"]["weight"])),
        )
        for way, found in ways(records).items()
    ]


PATH_HEAD = (
    "rollouts", "groups", "mean \\|log-ratio\\| of a path's token", "correlation", "sd of a path's log-ratio",
    "... estimated", "mean ratio of paths", "... estimated",
)  # fmt: skip
PATH_COLUMNS = ("mismatch", "correlation", "deviation", "estimated_deviation", "ratio", "estimated_ratio")


def seen(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """A row for each quantised way: what the estimates see of the paths' exact log-ratios, mean over the batches."""
    return [
        (*label(way), *(_mean(found, _of_paths(name)) for name in PATH_COLUMNS))
        for way, found in ways(records).items()
        if found[0]["paths"]
    ]


def _of_paths(name: str) -> Callable[[Record], float]:
    return lambda one: fmean(path[name] for path in one["paths"])


TABLES = {"learnt": (HEAD, learnt), "paths": (PATH_HEAD, seen)}


def filled(document: str, records: Sequence[Record]) -> str:
    """`document` with its tables made anew."""

    def replace(block: re.Match[str]) -> str:
        head, rows = TABLES[block["name"]]
        lines = [head, ("---",) * len(head), *rows(records)]
        return block[1] + "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"

    return BLOCK.sub(replace, document)


def _mean(found: Sequence[Record], value: Callable[[Record], float]) -> str:
    return _number(fmean(value(one) for one in found))


def _interval(values: Sequence[float]) -> str:
    """The mean, with the 95% interval over seeds (Student's t) where there are several."""
    found = estimate(values)
    return _number(found.mean) if found.count < 2 else f"{_number(found.mean)} ± {_number(found.half_width)}"


def _number(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value >= 0 else f"-{_number(-value)}"


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8"), read()), encoding="utf-8")
