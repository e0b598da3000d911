"""A tracker: a program that keeps a run's figures and draws them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ais.launcher.tracking.figures import Entry
from ais.launcher.tracking.settings import TrackerName, TrackingSettings
from ais.runtime.process import UnavailableError


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of the run as a whole."""

    path: Path
    """The run's directory."""
    name: str
    id: str
    """The same for the whole life of the run's directory, and no other run's."""
    settings: TrackingSettings
    configuration: dict[str, Any]
    """All settings, secrets masked, and the machine and software."""


class Tracker(Protocol):
    """Takes the figures of one run. May raise whatever its library raises."""

    rewrites: bool
    """Whether `begin` makes it empty. Then it has a step that was trained again as it is in the file; another tracker
    keeps what it was told first."""

    def begin(self) -> int:
        """Opens the run there. Gives how many entries it has already: the first of those it was ever told."""

    def log(self, entry: Entry) -> None:
        """Takes figures. Entries of steps come by rising step, those of evaluations later than their step."""

    def close(self) -> None:
        """Returns when everything is where it belongs."""


def open_tracker(name: TrackerName, run: TrackedRun) -> Tracker:
    """Raises UnavailableError when the tracker's library is not installed."""
    try:
        if name == "tensorboard":
            from ais.launcher.tracking.to_tensorboard import TensorBoard

            return TensorBoard(run)
        if name == "wandb":
            from ais.launcher.tracking.to_wandb import Wandb

            return Wandb(run)
        from ais.launcher.tracking.to_trackio import Trackio

        return Trackio(run)
    except ImportError as error:
        raise UnavailableError(missing(name)) from error


def missing(name: TrackerName) -> str:
    """What to say where the library of a tracker is not installed."""
    return f"tracking.trackers: {name} is not installed; pip install 'ais-rl[{name}]'"
