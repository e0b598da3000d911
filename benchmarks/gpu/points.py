"""The one file that everything measured goes into, point by point: what was measured before a kill is on the disk."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from ais.runtime.files import replace_file
from benchmarks.gpu.timing import release

FILE = "gpu.json"
CAUSE = 2000
"""Characters that are kept of what a point failed with."""

Values = Mapping[str, float | str | bool | None]


class Points:
    """Points by part and name. One process at a time writes them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: dict[str, Any] = {"machine": {}, "points": []}
        if path.is_file():
            self._content = json.loads(path.read_text(encoding="utf-8"))

    @property
    def all(self) -> list[dict[str, Any]]:
        points: list[dict[str, Any]] = self._content["points"]
        return points

    @property
    def machine(self) -> dict[str, str]:
        found: dict[str, str] = self._content["machine"]
        return found

    def is_done(self, part: str, name: str) -> bool:
        """Whether the point is there. One that failed is tried again."""
        return any(_is(point, part, name) and "error" not in point["values"] for point in self.all)

    def add(self, part: str, name: str, values: Values) -> None:
        """Puts the point in the place of one of its name."""
        kept = [point for point in self.all if not _is(point, part, name)]
        self._content["points"] = [*kept, {"part": part, "name": name, "values": dict(values)}]
        self._write()

    def describe(self, machine: Mapping[str, str]) -> None:
        """Notes on what everything was measured. The first machine stays."""
        if not self._content["machine"]:
            self._content["machine"] = dict(machine)
            self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, json.dumps(self._content, indent=1) + "\n")


def _is(point: Mapping[str, Any], part: str, name: str) -> bool:
    return bool(point["part"] == part and point["name"] == name)


@dataclass(frozen=True)
class Session:
    """What a part is asked for, and where its points go."""

    part: str
    out: Path
    device: str
    """cuda or cpu."""
    small: bool
    """Shapes of a few thousand parameters: to see on a processor that the part works."""
    end: float
    """Value of the monotonic clock after which no new point is begun."""
    file: Path | None = None
    """A file of settings, for the parts that take one."""
    workers: int = 1
    steps: int = 10
    missing: list[str] = field(default_factory=list)
    """Names of points that failed, or for which no time was left."""

    @property
    def points(self) -> Points:
        return Points(self.out / FILE)

    @property
    def seconds_left(self) -> float:
        return self.end - monotonic()

    def measure(self, name: str, call: Callable[[], Values]) -> None:
        """Adds the point that `call` gives, unless it is there already or the time is up.

        What `call` raises becomes a point too: the others still count.
        """
        points = self.points
        if points.is_done(self.part, name):
            return
        if self.seconds_left <= 0:
            print(f"{self.part} {name}: no time is left for it", flush=True)
            self.missing.append(name)
            return
        begun = monotonic()
        try:
            values = dict(call())
        except Exception as error:
            traceback.print_exc()
            values = {"error": f"{type(error).__name__}: {error}"[:CAUSE]}
        release(self.device)
        points.add(self.part, name, values)
        if "error" in values:
            self.missing.append(name)
        print(f"{self.part} {name} ({monotonic() - begun:.1f} s): {shown(values)}", flush=True)


def shown(values: Values) -> str:
    """The values on a line."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
