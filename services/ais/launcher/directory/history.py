"""Checks that the committed history of a run is whole: every group consumed exactly once, and none missing.

The trainer's ledger has a line for each checkpoint, its steps file a line for each step.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


def problems_of(directory: Path, steps: int, groups_per_batch: int) -> list[str]:
    """What is wrong with the history of a finished run, in words; empty when it is whole."""
    return history_problems(
        _lines(directory / "ledger.jsonl"), _lines(directory / "steps.jsonl"), steps, groups_per_batch
    )


def history_problems(ledger: Sequence[Line], records: Sequence[Line], steps: int, groups_per_batch: int) -> list[str]:
    """The same, for lines that have been read."""
    problems = []
    ordinals = list(chain.from_iterable(commit["ordinals"] for commit in ledger))
    expected = range(steps * groups_per_batch)
    if vanished := sorted(set(expected) - set(ordinals)):
        problems.append(f"{len(vanished)} groups vanished, such as that of ordinal {vanished[0]}")
    for what in ("ordinals", "group_ids", "entry_ids"):
        counts = Counter(chain.from_iterable(commit[what] for commit in ledger))
        if twice := [name for name, count in counts.items() if count > 1]:
            problems.append(f"{len(twice)} {what} were consumed more than once, such as {twice[0]}")
    if unknown := sorted(set(ordinals) - set(expected)):
        problems.append(f"{len(unknown)} ordinals are not of this run, such as {unknown[0]}")
    if (versions := [record["version"] for record in records]) != list(range(1, steps + 1)):
        problems.append(f"the steps recorded are not 1 to {steps}, each once, in order: {len(versions)} lines")
    for record in records:
        begin = (record["version"] - 1) * groups_per_batch
        if record["ordinals"] != list(range(begin, begin + groups_per_batch)):
            problems.append(f"step {record['version']} was trained on other ordinals than its own")
    trained = [group for record in records for group in record["group_ids"]]
    if not problems and trained != list(chain.from_iterable(commit["group_ids"] for commit in ledger)):
        problems.append("the groups that the steps were trained on are not those that the checkpoints committed")
    return problems


def _lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
