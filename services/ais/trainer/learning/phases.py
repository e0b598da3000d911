"""Measures where the time of a step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from ais.trainer.metrics.progress import PHASES


class PhaseClock:
    """Adds up wall seconds by phase. Phases do not nest; time outside them counts as `other`."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - begin

    def finish(self) -> tuple[float, dict[str, float]]:
        """Returns the seconds since the start or the last call, in all and by phase, and starts over."""
        now = time.perf_counter()
        total = now - self._begin
        seconds = {name: self._seconds[name] for name in PHASES}
        seconds["other"] = total - sum(seconds.values())
        self._begin = now
        self._seconds.clear()
        return total, seconds
