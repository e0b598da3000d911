"""What a run's files say of one group. They have as many lines as the run has steps: only those at hand are parsed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ais.launcher.directory.run_directory import RunDirectory

TAIL_BYTES = 1 << 14
"""Read of a file's end at first, to find its last line; more each time as it must be."""


@dataclass(frozen=True)
class Step:
    """A line of `steps.jsonl`. Unix times in seconds, by the trainer's clock."""

    version: int
    """The policy's after the step."""
    digest: str
    incarnation: int
    time: float
    """When it was done."""
    seconds: float
    """Since the step before."""
    phase_seconds: Mapping[str, float]
    ordinals: tuple[int, ...]
    group_ids: tuple[str, ...]

    @property
    def taken(self) -> float:
        """When the trainer had the whole batch and began with it."""
        return self.time - self.seconds + self.phase_seconds.get("wait", 0.0)

    def group_of(self, ordinal: int) -> str | None:
        """The group that was trained in the ordinal's place."""
        return dict(zip(self.ordinals, self.group_ids, strict=True)).get(ordinal)


def read_steps(directory: RunDirectory, versions: Collection[int]) -> dict[int, Step]:
    """The steps that made `versions`, as far as they are done."""
    lines = _lines(directory.steps, [f'"version": {version},' for version in versions])
    steps = (_step(line) for line in lines)
    return {step.version: step for step in steps if step is not None and step.version in versions}


def read_groups(directory: RunDirectory, version: int) -> list[dict[str, Any]]:
    """Lines of `groups.jsonl` of the batch that made `version`; none where it is older than what is kept."""
    return [line for line in _lines(directory.groups, [f'"version": {version},']) if line.get("version") == version]


def entry_of(directory: RunDirectory, group_id: str) -> tuple[str, int] | None:
    """The queue entry of a committed group and the step of the checkpoint that committed it."""
    for line in _lines(directory.ledger, [json.dumps(group_id)]):
        entries = dict(zip(line.get("group_ids", ()), line.get("entry_ids", ()), strict=False))
        if group_id in entries:
            return entries[group_id], int(line["step"])
    return None


def newest_version(directory: RunDirectory) -> int:
    """The last step that is recorded; 0 before the first."""
    tail = TAIL_BYTES
    while directory.steps.is_file():
        with directory.steps.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - tail))
            lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        whole = lines if tail >= size else lines[1:]
        if whole:
            return step.version if (step := _step(_parsed(whole[-1]) or {})) else 0
        if tail >= size:
            break
        tail *= 4
    return 0


def _step(line: Mapping[str, Any]) -> Step | None:
    """None: it is no record of a step."""
    try:
        return Step(
            version=int(line["version"]),
            digest=str(line.get("digest", "")),
            incarnation=int(line.get("incarnation", 0)),
            time=float(line["time"]),
            seconds=float(line["step_seconds"]),
            phase_seconds={str(name): float(seconds) for name, seconds in line["phase_seconds"].items()},
            ordinals=tuple(line["ordinals"]),
            group_ids=tuple(line["group_ids"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _lines(path: Path, marks: Collection[str]) -> Iterator[dict[str, Any]]:
    """The whole lines in which one of `marks` stands."""
    wanted = [mark.encode() for mark in marks]
    try:
        with path.open("rb") as file:
            for line in file:
                if any(mark in line for mark in wanted) and (found := _parsed(line)) is not None:
                    yield found
    except FileNotFoundError:
        return


def _parsed(line: bytes) -> dict[str, Any] | None:
    """None: half a line, or no JSON object."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
