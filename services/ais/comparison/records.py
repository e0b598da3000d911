"""What is kept of a cell: one line of `cells.jsonl`, whole or not at all.

One process appends, under a lock. A line that a kill has cut short has no newline; it is cut off before the next one is
written, and its cell is trained again.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ais.comparison.grid import Cell, Place
from ais.comparison.identity import is_same
from ais.runtime.process import UnavailableError

DIGITS = 5
"""Significant digits that are kept of a figure."""
STEP_FIGURES = (
    "reward_mean",
    "alpha",
    "log_ratio_abs_mean",
    "ess_ratio_raw",
    "sequence_ess_ratio_raw",
    "kl_k3",
    "weight_mean",
    "weighted_share",
    "entropy",
    "gradient_norm",
    "response_length_mean",
    "truncated_share",
    "skipped_updates",
)
"""Kept of each step, by the names that they have in a run's steps.jsonl (ais.trainer.record has what they are)."""
SECONDS = ("rollout_seconds", "training_seconds")
"""Kept of each step, too: of the processor in process, of the clock in a system."""

Column = list[float | None]


@dataclass(frozen=True)
class Record:
    """A cell that is done."""

    place: Place
    settings: Mapping[str, Any]
    """The cell's identity. Empty: of an older program, whose settings this one cannot express."""
    commit: str
    machine: str
    steps: Mapping[str, Column]
    """`step` and figures of the steps, column by column; None where a step has none."""
    evaluations: Mapping[str, Column]
    """`step`, `p` and `q`: held-out reward of the BF16 policy and of the policy that samples."""
    seconds: float
    """All that the cell cost: of the processor in process, of the clock in a system."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else an older record says."""

    def line(self) -> str:
        """The record as JSON on one line, figures rounded."""
        figures = _rounded({"steps": self.steps, "evaluations": self.evaluations, "seconds": self.seconds})
        about = {"settings": self.settings, "commit": self.commit, "machine": self.machine}
        extra = {"extra": self.extra} if self.extra else {}
        return json.dumps({**asdict(self.place), **about, **figures, **extra}, allow_nan=False) + "\n"

    @classmethod
    def parse(cls, line: str) -> Record:
        """Raises ValueError, KeyError or TypeError for a line that is no record."""
        tree = json.loads(line)
        place = Place(**{name: tree.pop(name) for name in ("task", "format", "method", "staleness", "seed")})
        return cls(place, **tree)


class Records:
    """The file of a comparison's records."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Record]:
        """All whole records, in the order in which their cells were done. Raises UnavailableError."""
        return read_records(self.path)

    def append(self, record: Record) -> None:
        """Adds a record and returns when it is on the disk. Raises OSError."""
        with self.path.open("ab+") as file:
            _cut_torn_line(file.fileno())
            os.write(file.fileno(), record.line().encode())
            os.fsync(file.fileno())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps every other `ais compare` from the file. Raises UnavailableError where one is at work."""
        lock = self.path.with_suffix(".lock")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UnavailableError(f"the results cannot be kept: {lock}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnavailableError(
                    f"another `ais compare` is at work in {lock.parent}. Wait for it, or end it (Ctrl-C) first."
                ) from None
            yield
        finally:
            os.close(descriptor)


def read_records(path: Path) -> list[Record]:
    """The whole records of a file; none when it is not there. Raises UnavailableError naming a line that is none."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnavailableError(f"the results cannot be read: {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):  # a kill cut it short
            continue
        try:
            found.append(Record.parse(line.decode()))
        except (ValueError, KeyError, TypeError) as error:
            raise UnavailableError(
                f"{path}:{number} is no record of a cell ({type(error).__name__}: {error}). Delete the line, and its "
                "cell is trained again."
            ) from None
    return found


def done_of(cells: Sequence[Cell], records: Sequence[Record]) -> dict[Place, Record]:
    """The newest record of each cell that has one. Records of other settings are nobody's."""
    by_place: dict[Place, list[Record]] = {}
    for record in records:
        by_place.setdefault(record.place, []).append(record)
    found = {}
    for cell in cells:
        same = [record for record in by_place.get(cell.place, ()) if is_same(record.settings, cell.identity)]
        if same:
            found[cell.place] = same[-1]
    return found


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end:
        begin = max(0, end - (1 << 16))
        block = os.pread(descriptor, end - begin, begin)
        if (newline := block.rfind(b"\n")) >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end < size:
        os.ftruncate(descriptor, end)


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
        case dict():
            return {key: _rounded(part) for key, part in value.items()}
        case list() | tuple():
            return [_rounded(part) for part in value]
        case _:
            return value
