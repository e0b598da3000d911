"""One run, followed through the files of its directory: what is new in them is read when somebody asks, and kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any

from ais.console import evaluations, fleet, happenings
from ais.console.columns import Columns
from ais.launcher.directory.lines import JsonLines
from ais.launcher.directory.run_directory import RunDirectory

CATCH_UP_SECONDS = 0.3
"""Processor time that one answer spends on reading a long run: the page shows how far that is, and asks again. By the
clock a busy machine would read a few lines an answer, and spend the rest on the answers."""
MOST_EVENTS = 500
MOST_SCORES = 5000


class _List:
    """What the newest lines of a file say, as long as nothing is known that takes their place."""

    def __init__(self, lines: JsonLines, parse: Callable[[Mapping[str, Any]], Any], most: int | None) -> None:
        self._lines = lines
        self._parse = parse
        self._generation = 0
        self.items: deque[Any] = deque(maxlen=most)

    @property
    def version(self) -> list[int]:
        return [self._generation, self._lines.count]

    def catch_up(self) -> None:
        for record in self._lines.new_records():
            self._forget_what_was_taken_back()
            try:
                self.items.append(self._parse(record))
            except (KeyError, TypeError):  # of another release
                continue
        self._forget_what_was_taken_back()

    def _forget_what_was_taken_back(self) -> None:
        if self._generation != self._lines.generation:
            self._generation = self._lines.generation
            self.items.clear()


class Feed:
    """What is known of one run. Take `lock` before you call or read anything of it."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.lock = Lock()
        self.columns = Columns()
        self.step_events: deque[happenings.Event] = deque(maxlen=MOST_EVENTS)
        self.evaluations = _List(JsonLines(directory.evaluations), evaluations.of_checkpoint, MOST_SCORES)
        self.held_out = _List(JsonLines(directory.held_out), evaluations.of_held_out, MOST_SCORES)
        self.warnings = _List(JsonLines(directory.warnings), happenings.of_warning, MOST_EVENTS)
        self.samples = _List(JsonLines(directory.samples), _sample, None)  # the trainer bounds the file
        self._steps = JsonLines(directory.steps)
        self._generation = 0
        self._told = 0
        self._before: Mapping[str, Any] | None = None

    @property
    def generation(self) -> int:
        """Changes when the steps begin anew, because a trainer that resumed has taken some of them back."""
        return self._generation

    @property
    def behind(self) -> int:
        """Bytes of the steps file that are still to be read."""
        return self._steps.behind

    @property
    def versions(self) -> dict[str, list[int]]:
        """A value for each part, which changes with it."""
        return {
            "steps": [self._generation, self.columns.rows],
            "evaluations": [*self.evaluations.version, *self.held_out.version],
            "samples": self.samples.version,
            "events": [*self.warnings.version, self._generation, self._told],
            "fleet": fleet.version(self.directory.fleet),
        }

    @property
    def events(self) -> list[happenings.Event]:
        """The newest first."""
        return sorted([*self.warnings.items, *self.step_events], key=lambda one: -(one["time"] or 0.0))[:MOST_EVENTS]

    @property
    def scores(self) -> list[evaluations.Score]:
        """By step."""
        return sorted([*self.held_out.items, *self.evaluations.items], key=lambda one: one["step"])

    def catch_up(self, seconds: float = CATCH_UP_SECONDS) -> None:
        """Reads what has come, of the steps for about so long, in processor time of the calling thread."""
        for part in (self.evaluations, self.held_out, self.warnings, self.samples):
            part.catch_up()
        self._take_until(time.thread_time() + seconds, self._steps.new_records())

    def _take_until(self, deadline: float, records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            self._forget_what_was_taken_back()
            for event in happenings.of_step(record, self._before):
                self.step_events.append(event)
                self._told += 1
            self.columns.add(record)
            self._before = record
            if time.thread_time() > deadline:
                break
        self._forget_what_was_taken_back()

    def _forget_what_was_taken_back(self) -> None:
        if self._generation != self._steps.generation:
            self._generation, self._before = self._steps.generation, None
            self.columns = Columns()
            self.step_events.clear()


def _sample(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises KeyError or TypeError for what cannot be shown."""
    return {**record, "step": int(record["step"]), "prompt": str(record["prompt"]), "response": str(record["response"])}
