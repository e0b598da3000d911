"""trackio: its local database, which `trackio show` draws. Nothing leaves the machine; `trackio sync` is the user's."""

from __future__ import annotations

import contextlib
from typing import Any

import trackio

from ais.launcher.tracking.figures import Entry
from ais.launcher.tracking.tracker import TrackedRun


class Trackio:
    """The run stands there under its name and the beginning of its id: trackio finds runs by their names alone."""

    rewrites = True

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._name = f"{run.name}-{run.id[:6]}"
        self._opened: Any = None

    def begin(self) -> int:
        self.close()
        project = self._run.settings.project
        with contextlib.suppress(ValueError):  # there is no such project yet
            for one in trackio.Api().runs(project):
                if one.name == self._name:
                    one.delete()
        self._opened = trackio.init(
            project=project,
            name=self._name,
            config=self._run.configuration,
            resume="never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return 0

    def log(self, entry: Entry) -> None:
        self._opened.log(dict(entry.figures), step=entry.step)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.finish()
