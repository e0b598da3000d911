"""How much of a new version's work the replicas that serve it first may take, while the others are about to.

Replicas that are pushed a version at the same time serve it some milliseconds apart. Where rollouts alternate with
training, all prompts of a batch wait for that moment, and the first replica has room for them all: it would sample the
whole batch, and the others nothing. So for `WAIT_SECONDS` it takes no more than its part, by slots. After that it takes
what it has room for: who is not there by then is busy with a longer push, or in trouble. A replica that is always later
than that costs each version so much, of the part that is held back for it.

A replica is about to serve a version when it serves the one before. Pure: time is given in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ais.contracts.registry import ReplicaRecord

WAIT_SECONDS = 0.25
"""The longest that work waits for the others once the first replica serves a version."""


class Sharing:
    """Remembers when the newest version was first asked of replicas that serve it."""

    def __init__(self) -> None:
        self._version = -1
        self._since = 0.0

    def most_load(
        self,
        able: Sequence[ReplicaRecord],
        others: Sequence[ReplicaRecord],
        waiting: int,
        outstanding: Callable[[Sequence[ReplicaRecord]], int],
        required_version: int,
        now: float,
    ) -> float | None:
        """The most sequences a slot that one of the `able` replicas, which serve the version, should have; None: no
        matter how many.

        `others` take work, and do not serve it yet; `waiting` sequences wait, and replicas owe those `outstanding`.
        """
        if not able:
            return None
        if required_version > self._version:
            self._version, self._since = required_version, now
        if now - self._since >= WAIT_SECONDS:
            return None
        coming = [one for one in others if one.policy_version == required_version - 1]
        if not coming:
            return None
        sharers = [*able, *coming]
        return (waiting + outstanding(sharers)) / sum(one.slots for one in sharers)
