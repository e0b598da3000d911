"""Every border that reads bytes of others. A target's module is loaded where it is fed: some take seconds."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.fuzz.target import Target


@dataclass(frozen=True)
class Place:
    """Where a target is."""

    module: str
    """Has it in its `TARGETS`."""
    share: float = 1.0
    """Share of all inputs, relative to other targets: slow borders get fewer."""

    def target(self, name: str) -> Target:
        found: Target = importlib.import_module(self.module).TARGETS[name]
        return found


PLACES: Mapping[str, Place] = {
    name: Place(f"{__name__}.{module}", share)
    for module, names in {
        "trajectories": {"group": 0.5, "trajectory": 1.0, "request": 1.0, "entry": 0.5},
        "redis_records": {"event": 1.0, "record": 1.0, "evaluation": 1.0},
        "weights": {"offer": 1.0, "answer": 1.0, "probe": 1.0, "delta": 0.1, "delta_inside": 0.1},
        "tensors": {"snapshot": 0.1, "adapter": 0.1},
        "settings": {"settings": 0.05, "overrides": 0.05},
        "answers": {"scores": 1.0, "reply": 1.0, "response": 0.5},
        "callers": {"caller": 1.0},
        "endpoint": {"chat": 0.5, "completion": 0.5, "end": 1.0, "wanted": 1.0},
    }.items()
    for name, share in names.items()
}
