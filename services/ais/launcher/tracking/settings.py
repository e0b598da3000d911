"""Settings of the trackers: section [tracking]."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ais.runtime.settings import Seconds, Section

TrackerName = Literal["tensorboard", "wandb", "trackio"]


class WandbSettings(Section):
    """Weights & Biases."""

    mode: Literal["online", "offline"] = "online"
    """`online` needs `wandb login`, or WANDB_API_KEY; `offline` touches no network and writes a run that `wandb sync`
    sends later."""
    entity: str = Field(default="", max_length=128)
    """User or team that the run belongs to. Empty: the one that is logged in."""


class TrackingSettings(Section):
    """Where figures go besides steps.jsonl, which is always written (docs/tracking.md)."""

    trackers: tuple[TrackerName, ...] = ()
    """What gets every figure of every step, such as ["tensorboard", "wandb"]. Each needs the extra of its name."""
    project: str = Field(default="ais", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)
    """Project of wandb and trackio in which the run appears."""
    wandb: WandbSettings = WandbSettings()
    """Weights & Biases."""
    final_seconds: Seconds = 20.0
    """At the end of the run, how long a tracker may take for what it has not taken yet. What then lacks is told."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"tracking.trackers names one twice: {', '.join(self.trackers)}")
        return self
