"""The committed history of a run: one line a checkpoint, in `ledger.jsonl`, that says which groups it consumed.

Lines are never changed. Checkpoints are deleted in time; the ledger stays, and shows that each group was consumed once.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from ais.runtime.files import replace_file

LEDGER_FILE = "ledger.jsonl"


@dataclass(frozen=True)
class Commit:
    """What one checkpoint added to the history."""

    step: int
    """Batches trained, all those before included."""
    version: int
    """Policy version of its weights."""
    digest: str
    """Digest of its weights."""
    incarnation: int
    """The trainer that made it."""
    ordinals: tuple[int, ...]
    """Ordinals of the groups consumed since the commit before."""
    group_ids: tuple[str, ...]
    """Their group ids."""
    entry_ids: tuple[str, ...]
    """Their queue entries."""


_COMMIT = TypeAdapter(Commit)


def append(directory: Path, commit: Commit) -> None:
    """Adds a line and waits until it is on the disk."""
    with (directory / LEDGER_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(commit)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(directory: Path) -> list[Commit]:
    """All commits, in order; none if there is no ledger. A line cut short by a crash is not one."""
    try:
        text = (directory / LEDGER_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [_COMMIT.validate_json(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def reconcile(directory: Path, last: Commit | None) -> None:
    """Makes the ledger end with `last`, the commit that training resumes from; None: with nothing.

    A crash may have come between a checkpoint and its line; a damaged checkpoint's line must not stay.
    """
    step = last.step if last else 0
    commits = [commit for commit in read(directory) if commit.step < step]
    if last is not None:
        commits.append(last)
    replace_file(directory / LEDGER_FILE, (json.dumps(asdict(commit)) + "\n" for commit in commits))
