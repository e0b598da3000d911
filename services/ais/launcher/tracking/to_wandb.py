"""Weights & Biases, online or offline. Beyond the figures it gets no code, no output, and nothing of the machine but
what the configuration says.

wandb's own steps count the entries: a figure is drawn over `step`, because an evaluation ends later than its step.
"""

from __future__ import annotations

import shutil
from typing import Any

import wandb

from ais.launcher.tracking.figures import Entry
from ais.launcher.tracking.tracker import TrackedRun

DIRECTORY = "wandb"
"""In the run's directory."""
STEP = "step"
INIT_SECONDS = 60.0
"""How long the server may take to answer at the beginning."""


class Wandb:
    """Offline, the files are written anew where steps were trained again. A server keeps what it was told first."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._offline = run.settings.wandb.mode == "offline"
        self.rewrites = self._offline
        self._opened: Any = None

    def begin(self) -> int:
        self.close()
        if self._offline:
            shutil.rmtree(self._run.path / DIRECTORY, ignore_errors=True)
        self._opened = wandb.init(
            project=self._run.settings.project,
            entity=self._run.settings.wandb.entity or None,
            id=self._run.id,
            name=self._run.name,
            resume=None if self._offline else "allow",
            mode=self._run.settings.wandb.mode,
            dir=str(self._run.path),
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                init_timeout=INIT_SECONDS,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )
        self._opened.config.update(self._run.configuration, allow_val_change=True)
        self._opened.define_metric("*", step_metric=STEP)
        return int(self._opened.starting_step)

    def log(self, entry: Entry) -> None:
        self._opened.log({STEP: entry.step, **entry.figures})

    def close(self) -> None:
        if self._opened is not None:
            self._opened.finish()
