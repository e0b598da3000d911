"""What to do when a process of a run ends. Pure: it is told what happened and when, and answers with a decision.

Policy
- A trainer that ends with exit code 0 ends the run; a dead one goes on from its checkpoint when it is started again.
- What dies is started again, after a wait that doubles from death to death. A life of `STABLE_SECONDS` makes earlier
  deaths forgotten.
- An orderly end (exit code 0) is no death. At the end of the run the collector ends like this, so it waits long.
- `deaths_limit` deaths in a row are enough. Of several replicas, one may be given up and the run goes on with the
  others, and it goes on without a tracker; anything else that is given up, or the last replica, ends the run.
- Wrong settings (exit code 2) and what is not there (exit code 3: a model, a data file, a port) do not get better by
  trying again: a service waits for what may come before it says so. Such a process is given up at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE

STABLE_SECONDS = 30.0
"""A process that lived this long was not dying at start."""
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 10.0


class Role(StrEnum):
    """What a process is to the run."""

    SERVER = "server"
    REPLICA = "replica"
    COLLECTOR = "collector"
    TRAINER = "trainer"
    AGENT = "agent"
    TRACKER = "tracker"


@dataclass(frozen=True)
class Restart:
    """Start it again after a wait."""

    after_seconds: float


@dataclass(frozen=True)
class GiveUp:
    """Leave it ended; the run goes on without it."""

    reason: str


@dataclass(frozen=True)
class Finish:
    """The run has ended well."""


@dataclass(frozen=True)
class Fail:
    """The run cannot go on."""

    reason: str


Decision = Restart | GiveUp | Finish | Fail


@dataclass
class _Life:
    role: Role
    started: float = 0.0
    deaths: int = 0
    given_up: bool = False


class Supervision:
    """State of one run's processes."""

    def __init__(self, roles: Mapping[str, Role], deaths_limit: int) -> None:
        self._deaths_limit = deaths_limit
        self._lives = {name: _Life(role) for name, role in roles.items()}

    def add(self, name: str, role: Role) -> None:
        """One more process is to be kept alive."""
        self._lives[name] = _Life(role)

    def remove(self, name: str) -> None:
        """`name` is ended by us, and stays ended."""
        del self._lives[name]

    def started(self, name: str, now: float) -> None:
        """`name` runs since `now` (seconds of a monotonic clock)."""
        self._lives[name].started = now

    def ended(self, name: str, code: int, now: float) -> Decision:
        """`name` ended without having been asked to by us; `code` is minus the signal's number if a signal did it."""
        life = self._lives[name]
        if life.role is Role.TRAINER and code == 0:
            return Finish()
        if code == EXIT_UNAVAILABLE:
            return self._give_up(name, "what it needs is not there")
        if code == EXIT_SETTINGS:
            return self._give_up(name, "its settings are wrong")
        if code == 0:
            return Restart(LONGEST_WAIT_SECONDS)
        life.deaths = 1 if now - life.started >= STABLE_SECONDS else life.deaths + 1
        if life.deaths >= self._deaths_limit:
            return self._give_up(name, f"it died {life.deaths} times in a row")
        return Restart(min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(life.deaths - 1, 10)))

    def _give_up(self, name: str, why: str) -> Decision:
        self._lives[name].given_up = True
        role = self._lives[name].role
        if role is Role.TRACKER:
            return GiveUp(f"{name} is given up: {why}; the run goes on without it")
        others = [life for life in self._lives.values() if life.role is role and not life.given_up]
        if role is Role.REPLICA and others:
            return GiveUp(f"{name} is given up: {why}; {len(others)} of its kind left")
        return Fail(f"{name} is given up: {why}")
