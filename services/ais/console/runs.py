"""Which runs a console shows: the one it was opened for, one to compare it with, and those beside it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock

from ais.console.feed import Feed
from ais.launcher.directory.run_directory import RunDirectory

MOST_FEEDS = 4
"""Runs that are kept in memory; a page looks at two."""
MOST_SIBLINGS = 100


class Runs:
    """The runs by name. One that lies elsewhere goes by its path."""

    def __init__(self, run: RunDirectory, other: RunDirectory | None = None) -> None:
        self._run = RunDirectory(run.path.resolve())
        self._other = RunDirectory(other.path.resolve()) if other else None
        self._lock = Lock()
        self._feeds: OrderedDict[str, Feed] = OrderedDict()

    @property
    def run(self) -> str:
        """Name of the run that the page opens with."""
        return self._run.name

    @property
    def path(self) -> Path:
        """Directory of that run."""
        return self._run.path

    @property
    def other(self) -> str | None:
        """Name of the run to compare it with from the beginning."""
        return self._name(self._other) if self._other else None

    def names(self) -> list[str]:
        """All runs that can be shown: the first is the console's own, then those that were changed last."""
        changed = {path.name: _changed(path) for path in self._run.path.parent.iterdir()}
        newest = sorted((name for name in changed if changed[name]), key=lambda name: -changed[name])
        return list(dict.fromkeys(name for name in (self.run, self.other, *newest[:MOST_SIBLINGS]) if name))

    def feed(self, name: str) -> Feed | None:
        """What is known of a run; None where there is none of that name."""
        with self._lock:
            if name not in self._feeds:
                if name not in self.names():
                    return None
                self._feeds[name] = Feed(self._directory(name))
                if len(self._feeds) > MOST_FEEDS:
                    self._feeds.popitem(last=False)
            self._feeds.move_to_end(name)
            return self._feeds[name]

    def _directory(self, name: str) -> RunDirectory:
        if self._other and name == self.other:
            return self._other
        return RunDirectory(self._run.path.parent / name)

    def _name(self, run: RunDirectory) -> str:
        return run.name if run.path.parent == self._run.path.parent else str(run.path)


def _changed(path: Path) -> float:
    """When a run's directory was changed last, Unix seconds; 0 for what is none, or may not be looked at."""
    try:
        return path.stat().st_mtime if (path / "config.toml").is_file() else 0.0
    except OSError:
        return 0.0
