"""Which replica samples the next group: the least loaded one whose policy is new enough. Pure: time is given in.

Load is the number of sequences that have not arrived, counted one by one: while a replica's group waits for its longest
response, the next group is sent to it.

A replica on which a call came to nothing rests for a moment, longer each time, so that work goes elsewhere while it is
away, full or at odds with the prompt; its first success clears the record. One that handed a call back is about to
leave: it gets no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence

from ais.contracts.registry import ReplicaRecord

FIRST_REST_SECONDS = 0.25
"""Rest after the first call that came to nothing; it doubles with each such call in a row."""
DOUBLINGS = 5
"""After this many in a row the rest grows no more: 8 seconds."""
ROUNDING = 1e-6
"""Sequences that a part, which is a quotient, may fall short of a whole number by."""


class Dispatcher:
    """Knows what it has sent to whom. Load is counted here, not read from the registry, whose records lag behind."""

    def __init__(self, queue_factor: float) -> None:
        self._queue_factor = queue_factor
        self._outstanding: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._resting_until: dict[str, float] = {}
        self._leaving: set[str] = set()

    def choose(
        self,
        replicas: Sequence[ReplicaRecord],
        sequences: int,
        required_version: int,
        now: float,
        avoid: str | None = None,
        excluded: Container[str] = (),
        most_load: float | None = None,
    ) -> ReplicaRecord | None:
        """The replica for a group of `sequences`; None if all are excluded, full, resting, not ready or too old.

        `avoid` is the replica that just failed this group: it is taken only when no other can be. With `most_load`,
        sequences a slot, one that would have more counts as full, unless it has nothing to do.
        """
        able = [
            replica
            for replica in replicas
            if replica.replica_id not in excluded
            and self.may_sample(replica, required_version)
            and not self.rests(replica, now)
            and self.has_room(replica, sequences, most_load)
        ]
        others = [replica for replica in able if replica.replica_id != avoid]
        return min(others or able, key=lambda replica: (self._load(replica), replica.replica_id), default=None)

    def rests(self, replica: ReplicaRecord, now: float) -> bool:
        """Whether a call to it came to nothing a moment ago."""
        return self._resting_until.get(replica.replica_id, 0.0) > now

    def may_sample(self, replica: ReplicaRecord, required_version: int) -> bool:
        """Whether it takes work at all, now or when it has room, with a policy that is new enough."""
        return replica.ready and replica.policy_version >= required_version and replica.replica_id not in self._leaving

    def has_room(self, replica: ReplicaRecord, sequences: int, most_load: float | None = None) -> bool:
        """Whether a group of `sequences` can be sent to it without more than its share waiting there."""
        outstanding = self._outstanding[replica.replica_id]
        most = self._queue_factor if most_load is None else min(self._queue_factor, most_load)
        return outstanding == 0 or outstanding + sequences <= replica.slots * most + ROUNDING

    def outstanding(self, replicas: Sequence[ReplicaRecord]) -> int:
        """Sequences that these owe."""
        return sum(self._outstanding[replica.replica_id] for replica in replicas)

    def sent(self, replica_id: str, sequences: int) -> None:
        self._outstanding[replica_id] += sequences

    def settled(self, replica_id: str, sequences: int = 1) -> None:
        """The replica owes `sequences` less: they have arrived, or will not come."""
        self._outstanding[replica_id] -= sequences

    def succeeded(self, replica_id: str) -> None:
        """A call ended well."""
        self._failures.pop(replica_id, None)
        self._resting_until.pop(replica_id, None)

    def handed_back(self, replica_id: str) -> None:
        """A call ended because the replica is about to leave."""
        self._leaving.add(replica_id)

    def failed(self, replica_id: str, now: float) -> None:
        """A call came to nothing: the replica rests."""
        if self._resting_until.get(replica_id, 0.0) > now:
            return  # one broken connection fails many groups: that is one failure
        rest = FIRST_REST_SECONDS * 2 ** min(self._failures[replica_id], DOUBLINGS)
        self._failures[replica_id] += 1
        self._resting_until[replica_id] = now + rest

    def forget_except(self, replica_ids: set[str]) -> None:
        """Drops what is known of replicas that are gone and owe nothing."""
        for replica_id in list(self._outstanding):
            if replica_id not in replica_ids and self._outstanding[replica_id] == 0:
                del self._outstanding[replica_id]
                self._failures.pop(replica_id, None)
                self._resting_until.pop(replica_id, None)
        self._leaving &= replica_ids

    def _load(self, replica: ReplicaRecord) -> float:
        return self._outstanding[replica.replica_id] / replica.slots
