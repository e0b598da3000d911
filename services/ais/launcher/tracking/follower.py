"""Follows the files of a run and tells a tracker what is new in them.

The files are the queue between training and tracker: the trainer writes them in any case, whoever reads them, and they
lose nothing while a tracker is slow, hangs or is killed. A trainer that resumed trains steps again, and puts other
lines in the place of those it had written. A tracker that can be rewritten is, so that it has what the files have;
another one keeps what it was told first, and that is counted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.directory.steps import StepLog
from ais.launcher.tracking.figures import Entry, of_evaluation, of_held_out, of_step
from ais.launcher.tracking.tracker import Tracker

DIRECTORY = "tracking"
"""In the run's directory: a file for each tracker of what it has been told, one line an entry, in that order."""

logger = logging.getLogger(__name__)


class Follower:
    """Tells one tracker of one run."""

    def __init__(self, directory: RunDirectory, name: str, tracker: Tracker) -> None:
        """`name`: of the tracker, for its file."""
        self._directory = directory
        self._tracker = tracker
        self._file = directory.path / DIRECTORY / name
        self._file.parent.mkdir(exist_ok=True)
        self._begin()
        self.kept = 0
        """Entries that the tracker has in an earlier form than the files."""

    @property
    def told(self) -> int:
        """Entries that the tracker has."""
        return len(self._told)

    def catch_up(self) -> None:
        """Tells what is new. Raises whatever the tracker raises."""
        changed = 0
        for entry in self._new_entries():
            made = self._told.get(entry.key)
            if made is None:
                self._tell(entry)
            elif made != entry.made:
                changed += 1
        if changed and self._tracker.rewrites:
            self._rewrite()
        elif changed:
            self.kept += changed
            logger.warning("%d steps were trained again; the tracker keeps their first figures", changed)

    def _begin(self) -> None:
        has = self._tracker.begin()
        self._told = dict(list(told_to(self._directory, self._file.name).items())[:has])
        """When each entry that the tracker has was made, in the order in which it was told."""
        self._logs = self._open()
        with self._file.open("w", encoding="utf-8") as file:
            file.writelines(_line(key, made) for key, made in self._told.items())

    def _rewrite(self) -> None:
        """Tells everything again, of each entry the last form."""
        self._logs = self._open()
        last = {entry.key: entry.made for entry in self._new_entries()}
        self._begin()
        for entry in self._new_entries():
            if entry.key not in self._told and last.get(entry.key, entry.made) == entry.made:
                self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(_line(entry.key, entry.made))
        self._tracker.log(entry)
        self._told[entry.key] = entry.made

    def _open(self) -> tuple[tuple[StepLog, Callable[[Mapping[str, Any]], Entry]], ...]:
        directory = self._directory
        return (
            (StepLog(directory.steps), of_step),
            (StepLog(directory.held_out), of_held_out),
            (StepLog(directory.evaluations), of_evaluation),
        )

    def _new_entries(self) -> Iterator[Entry]:
        for log, entry_of in self._logs:
            yield from map(entry_of, log.new_records())


def told_to(directory: RunDirectory, name: str) -> Mapping[str, float]:
    """The entries that the tracker of that name has been told, and when each was made."""
    try:
        lines = (directory.path / DIRECTORY / name).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    return dict(json.loads(line) for line in lines if line.endswith("\n"))


def _line(key: str, made: float) -> str:
    return json.dumps([key, made]) + "\n"
