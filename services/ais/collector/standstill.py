"""How long nothing has moved, and when to say so. Pure: time is given in."""

from __future__ import annotations

STEPS_PATIENCE = 3.0
"""The trainer is slow when it takes so many times as long as its longest step so far."""


class Standstill:
    """Things move when a response arrives, a group is published, or the trainer tells something."""

    def __init__(self, patience_seconds: float, now: float) -> None:
        self._patience_seconds = patience_seconds
        self._moved = now
        self._told = now
        self._trained: float | None = None
        self._longest_step = 0.0

    def moved(self, now: float) -> None:
        """Something moved."""
        self._moved = self._told = now

    def trained(self, now: float) -> None:
        """The trainer finished a step."""
        if self._trained is not None:
            self._longest_step = max(self._longest_step, now - self._trained)
        self._trained = now
        self.moved(now)

    def idle_seconds(self, now: float) -> float:
        """Time since something moved."""
        return now - self._moved

    def patience_seconds(self, at_least: float = 0.0, trainer: bool = False) -> float:
        """How long nothing may move. `at_least`: a call may take so long; `trainer`: its next step is waited for."""
        return max(self._patience_seconds, at_least, STEPS_PATIENCE * self._longest_step if trainer else 0.0)

    def due(self, now: float, patience_seconds: float) -> bool:
        """Whether to say that nothing moves: when patience has ended, and again each time it has."""
        if now - self._told < patience_seconds:
            return False
        self._told = now
        return True
