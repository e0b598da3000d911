"""Which replica samples the next group: the least loaded one whose policy is new enough. Pure: time is given in.

Load is the number of sequences that have not arrived, counted one by one: a replica whose group waits for its longest
response gets the next group meanwhile.

A replica that failed a call rests for a moment, longer each time, so that work goes elsewhere while it is away; its
first success clears the record. One that handed a call back is about to leave: it gets no more, and has not failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ais.contracts.registry import ReplicaRecord

FIRST_REST_SECONDS = 0.25
"""Rest after the first failed call; doubles with each failure in a row."""
DOUBLINGS = 5
"""After this many failures in a row the rest does not grow any more: 8 seconds."""


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
    ) -> ReplicaRecord | None:
        """The replica for a group of `sequences`; None if all are full, resting, not ready or too old.

        `avoid` is the replica that just failed this group: taken only when it is the only one there.
        """
        able = [
            replica
            for replica in replicas
            if self.may_sample(replica, required_version)
            and self._resting_until.get(replica.replica_id, 0.0) <= now
            and self.has_room(replica, sequences)
        ]
        others = [replica for replica in able if replica.replica_id != avoid]
        return min(others or able, key=lambda replica: (self._load(replica), replica.replica_id), default=None)

    def may_sample(self, replica: ReplicaRecord, required_version: int) -> bool:
        """Whether it takes work at all, now or when it has room, with a policy that is new enough."""
        return replica.ready and replica.policy_version >= required_version and replica.replica_id not in self._leaving

    def has_room(self, replica: ReplicaRecord, sequences: int) -> bool:
        """Whether a group of `sequences` can be sent to it without more than its share waiting there."""
        outstanding = self._outstanding[replica.replica_id]
        return outstanding == 0 or outstanding + sequences <= replica.slots * self._queue_factor

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
        """A call came to nothing."""
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
