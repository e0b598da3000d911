"""Settings of `ais run` and `ais eval`: section [launcher]."""

from __future__ import annotations

from pydantic import Field

from ais.runtime.settings import (
    MOST,
    Count,
    CountOrNone,
    Seconds,
    Section,
)


class LauncherSettings(Section):
    """How a run on one machine is started, evaluated and ended."""

    evaluation_prompts: CountOrNone = 512
    """Held-out prompts each saved checkpoint is evaluated on after training, or all that there are; 0 leaves the
    evaluation out."""
    evaluation_checkpoints: int = Field(default=8, ge=2, le=MOST)
    """Most checkpoints that are evaluated: the first, the last, and others evenly between."""
    deaths_limit: Count = 5
    """Deaths in a row, each within seconds of its start, before a process is given up."""
    stop_grace_seconds: Seconds = 30.0
    """How long a service may take to end after SIGTERM; then it is killed. Long enough for the trainer to finish its
    step and commit a checkpoint; usually all end within a second or two."""
