"""Names of everything the services keep in Redis, under one prefix for each run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """Redis keys of one run. Several runs share one server without seeing each other."""

    run: str

    @property
    def groups(self) -> str:
        """Stream of scored groups, collector to trainer."""
        return f"ais:{self.run}:groups"

    @property
    def dead_letters(self) -> str:
        """Stream of discarded entries with their reason."""
        return f"ais:{self.run}:groups:dead"

    @property
    def accepted(self) -> str:
        """Sorted set of the ordinals whose group is in the stream; score = ordinal."""
        return f"ais:{self.run}:accepted"

    @property
    def events(self) -> str:
        """Stream of the trainer's events, trainer to collector."""
        return f"ais:{self.run}:events"

    @property
    def position(self) -> str:
        """Hash of what the newest trainer has; written together with each of its events."""
        return f"ais:{self.run}:position"

    @property
    def evaluations(self) -> str:
        """Hash of the evaluations while training, by step, collector to trainer."""
        return f"ais:{self.run}:evaluations"

    @property
    def incarnation(self) -> str:
        """How many trainers have been started for the run; the newest one's number fences off the ones before it."""
        return f"ais:{self.run}:incarnation"

    @property
    def identity(self) -> str:
        """Which run directory the run's state belongs to."""
        return f"ais:{self.run}:identity"

    @property
    def replicas(self) -> str:
        """Set of replica ids that may be alive."""
        return f"ais:{self.run}:replicas"

    def replica(self, replica_id: str) -> str:
        """Record of one replica; expires when its heartbeat stops."""
        return f"ais:{self.run}:replica:{replica_id}"
