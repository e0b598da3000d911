"""Turns a rank that hangs into an error that names it, and what the others wait for.

The ranks meet in collectives, and a rank that never comes leaves the others waiting. Each rank therefore tells a store
about once a second that it is alive, how many phases it has entered, and what the phase is called. All ranks enter the
same phases in the same order, so whoever is behind is who the others wait for. When a phase has lasted longer than the
deadline, or a rank has been silent as long, a rank says so and ends its process, and torchrun starts all of them again.
The process group has a deadline of its own behind this one: torch's, which knows what the collective was, but not why.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel

from ais.runtime.exits import EXIT_RANK_LOST

TICK_SECONDS = 1.0
"""How often a rank reports and looks at the others."""

logger = logging.getLogger(__name__)


class Store(Protocol):
    """What is used of `torch.distributed.Store`."""

    def set(self, key: str, value: str) -> None: ...
    def check(self, keys: list[str]) -> bool: ...
    def get(self, key: str) -> bytes: ...


class Report(BaseModel):
    """What a rank says about itself."""

    beat: int
    """Grows with every report of a living process."""
    entered: int
    """Phases entered."""
    phase: str
    left: bool = False
    """It has ended as it should: nobody waits for it."""


@dataclass(frozen=True)
class Sighting:
    """The newest report of another rank, and how long there has been no newer one."""

    report: Report | None
    """None: it has not reported yet."""
    silent_seconds: float


def complaint(rank: int, own: Report, seconds: float, others: Mapping[int, Sighting], deadline: float) -> str | None:
    """What is wrong, or None. Pure.

    `seconds`: how long the phase has lasted, 0 for one that may last as long as it likes.
    """
    missing = {
        other: seen
        for other, seen in others.items()
        if seen.silent_seconds > deadline and not (seen.report and seen.report.left)
    }
    if not missing and seconds <= deadline:
        return None
    missing = missing or {
        other: seen for other, seen in others.items() if seen.report and seen.report.entered < own.entered
    }
    found = "; ".join(f"rank {other} is missing, {_describe(seen)}" for other, seen in sorted(missing.items()))
    return (
        f"rank {rank} waits in {own.phase!r}, and trainer.ranks.collective_seconds = {deadline:g} are over: "
        f"{found or 'all ranks are there, so look at the network between them, or allow more time'}"
    )


def _describe(seen: Sighting) -> str:
    if seen.report is None:
        return "which has never reported"
    return f"last seen in {seen.report.phase!r} and silent for {seen.silent_seconds:.0f} s"


class Watchdog:
    """Watches the ranks, from two threads of its own in each of them: a store that hangs must not stop the watch."""

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        deadline_seconds: float,
        linger_seconds: float = 0.0,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        """Reports at once. `store` is this object's alone. `linger_seconds`: time between the complaint and the end,
        for torch to write down what it knows."""
        self._store = store
        self._rank = rank
        self._deadline = deadline_seconds
        self._linger = linger_seconds
        self._end = end
        now = time.monotonic()
        self._report = Report(beat=0, entered=0, phase="start")
        self._began: float | None = None
        """When the phase began; None in one without a deadline."""
        self._seen: dict[int, tuple[Report | None, float]] = {
            other: (None, now) for other in range(size) if other != rank
        }
        """The newest report of each other rank, and when it came."""
        self._looked = now
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        store.set(str(rank), self._report.model_dump_json())
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._exchange, self._judge)]

    def start(self) -> None:
        """Call when all ranks have reported."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """This rank ends as it should, and is not to be missed."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._store.set(str(self._rank), self._report.model_copy(update={"left": True}).model_dump_json())

    @contextmanager
    def phase(self, name: str, deadline: bool = True) -> Iterator[None]:
        """What this rank does now. Phases do not nest."""
        with self._lock:
            self._report = self._report.model_copy(update={"entered": self._report.entered + 1, "phase": name})
            self._began = time.monotonic() if deadline else None
        try:
            yield
        finally:
            with self._lock:
                self._report = self._report.model_copy(update={"phase": f"after {name}"})
                self._began = None

    def _exchange(self) -> None:
        """Reports, and reads what the others report."""
        while not self._stopped.is_set():
            with self._lock:
                self._report = own = self._report.model_copy(update={"beat": self._report.beat + 1})
            try:
                self._store.set(str(self._rank), own.model_dump_json())
                found = {other: self._read(other) for other in self._seen}
            except RuntimeError as error:  # torch's, of every kind
                self._give_up(f"rank {self._rank} has lost the store that the ranks meet in: {error}")
                return
            now = time.monotonic()
            with self._lock:
                self._looked = now
                for other, report in found.items():
                    if report != self._seen[other][0]:
                        self._seen[other] = (report, now)
            self._wait()

    def _read(self, rank: int) -> Report | None:
        key = str(rank)
        return Report.model_validate_json(self._store.get(key)) if self._store.check([key]) else None

    def _judge(self) -> None:
        while not self._wait():
            now = time.monotonic()
            with self._lock:
                own, began, looked = self._report, self._began, self._looked
                # While the store does not answer, only rank 0, which may keep it, is known to be silent.
                sightings = {
                    other: Sighting(report, (looked if other else now) - since)
                    for other, (report, since) in self._seen.items()
                }
            seconds = 0.0 if began is None else now - began
            if (found := complaint(self._rank, own, seconds, sightings, self._deadline)) is not None:
                self._give_up(found)
                return

    def _wait(self) -> bool:
        """Until the next look. True: there is none."""
        return self._stopped.wait(min(TICK_SECONDS, self._deadline / 4))

    def _give_up(self, why: str) -> None:
        if not self._stopped.is_set():
            logger.critical("%s; ending this process", why)
            self._stopped.wait(self._linger)
            self._end(EXIT_RANK_LOST)
