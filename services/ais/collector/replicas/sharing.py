"""How much of a new version's work the replicas that serve it first may take, while the others are about to.

Replicas that are pushed a version at the same time serve it some milliseconds apart. Where rollouts alternate with
training, all prompts of a batch wait for that moment, and the first replica has room for them all: it would sample the
whole batch, and the others nothing. So for `WAIT_SECONDS` it takes no more than its part, by slots. After that it takes
what it has room for: who is not there by then is busy with a longer push, or in trouble.

A replica is about to serve a version when it serves the one before. Pure: time is given in.
"""

from __future__ import annotations

from collections.abc import Sequence

from ais.contracts.registry import ReplicaRecord

WAIT_SECONDS = 0.25
"""The longest that work waits for the second replica once the first serves a version."""


class Sharing:
    """Remembers when each version was first served."""

    def __init__(self) -> None:
        self._version = -1
        self._since = 0.0

    def most_load(
        self,
        able: Sequence[ReplicaRecord],
        others: Sequence[ReplicaRecord],
        sequences: float,
        required_version: int,
        now: float,
    ) -> float | None:
        """The most sequences a slot that one of the `able` replicas, which serve the version, should have; None: no
        matter how many.

        `others` may come to serve it; `sequences` are those that wait and those the able ones still owe.
        """
        if not able:
            return None
        if required_version > self._version:
            self._version, self._since = required_version, now
        coming = [one for one in others if one.ready and one.policy_version == required_version - 1]
        if not coming or now - self._since >= WAIT_SECONDS:
            return None
        return sequences / sum(one.slots for one in (*able, *coming))
