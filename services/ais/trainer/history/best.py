"""Which step is the best so far, and whether waiting for a better one is over. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def best_step(values: Mapping[int, float]) -> int | None:
    """The step with the greatest value, the earliest of equal ones; None: nothing has been evaluated."""
    return max(sorted(values), key=lambda step: values[step], default=None)


def in_vain(values: Mapping[int, float]) -> int:
    """Evaluations since the best one."""
    best = best_step(values)
    return 0 if best is None else sum(step > best for step in values)
