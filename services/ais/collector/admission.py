"""Which prompts may be started, and by which policy version at the earliest: staleness is bounded at the source.

Prompts have ordinals 0, 1, 2, ... and batch k of the trainer is exactly the groups of ordinals [kB, (k+1)B). It is
trained when the policy is at version k. Two rules follow from the bound "no token is more than S versions behind the
policy that trains on it":

- admission: with the trainer at version v, only ordinals below (v + S + 1) B may be started. This is AReaL's formula,
  at most (v + S + 1) B groups accepted or running, with the groups named instead of counted;
- eligibility: an ordinal of batch k may only be sampled by a replica at version k - S or newer.

So nothing sampled is ever too stale when its batch comes, nothing has to be dropped for it, and batches are not biased
towards prompts that are quick to answer. The price is that a batch waits for its slowest group, while replicas already
work on the S batches after it.

A trainer that died and resumed may be at an older version than the one that had been announced. Then what it trains
again is needed again, except for what the queue still has: `resume` starts over from there.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator


class Admission:
    """The state machine. Every ordinal is closed, open, running or accepted; `discard` and `fail` open it again."""

    def __init__(self, groups_per_batch: int, max_staleness: int, batches: int) -> None:
        self._groups_per_batch = groups_per_batch
        self._max_staleness = max_staleness
        self._end = batches * groups_per_batch
        self._version = -1
        self._limit = 0
        self._open: list[int] = []  # a heap
        self._running: set[int] = set()
        self._accepted: set[int] = set()
        self._discarded_early: set[int] = set()

    @property
    def version(self) -> int:
        """The trainer's policy version; -1 before it is known."""
        return self._version

    @property
    def running(self) -> int:
        """Groups being sampled."""
        return len(self._running)

    @property
    def accepted(self) -> frozenset[int]:
        """Ordinals of the groups in the queue that the trainer has not reached yet."""
        return frozenset(self._accepted)

    @property
    def open(self) -> int:
        """Groups that may be started now."""
        return len(self._open)

    def resume(self, version: int, accepted: set[int]) -> None:
        """The trainer starts or starts again at `version`, and the queue holds exactly the `accepted` ordinals.

        Groups that run go on; their ordinals stay closed until they end.
        """
        self._version = -1
        self._limit = 0
        self._open = []
        self._accepted = accepted - self._running
        self.advance(version)

    def advance(self, version: int) -> None:
        """The trainer is at `version`. A version that is not newer than the last is old news and changes nothing."""
        if version <= self._version:
            return
        self._version = version
        begin = version * self._groups_per_batch
        self._accepted = {ordinal for ordinal in self._accepted if ordinal >= begin}
        # Ordinals below `begin` are trained: those still open are left over from a race, and are no work any more.
        self._open = [ordinal for ordinal in self._open if ordinal >= begin]
        heapq.heapify(self._open)
        limit = min((version + self._max_staleness + 1) * self._groups_per_batch, self._end)
        for ordinal in range(max(self._limit, begin), limit):
            if ordinal not in self._accepted and ordinal not in self._running:
                heapq.heappush(self._open, ordinal)
        self._limit = max(self._limit, limit)

    def peek(self) -> int | None:
        """The open ordinal that is needed first."""
        return self._open[0] if self._open else None

    def required_version(self, ordinal: int) -> int:
        """Oldest policy version that may sample this ordinal."""
        return max(0, ordinal // self._groups_per_batch - self._max_staleness)

    def in_order(self) -> Iterator[int]:
        """The open ordinals as they are needed."""
        if self._open:
            yield self._open[0]
            yield from sorted(self._open)[1:]

    def start(self, ordinal: int | None = None) -> int:
        """Takes an open ordinal, by default the one that is needed first. Raises IndexError when none is open."""
        if ordinal is None or ordinal == self._open[0]:
            ordinal = heapq.heappop(self._open)
        else:
            self._open.remove(ordinal)
            heapq.heapify(self._open)
        self._running.add(ordinal)
        return ordinal

    def accept(self, ordinal: int) -> None:
        """A running group has been published."""
        self._running.discard(ordinal)
        if ordinal in self._discarded_early:
            self._discarded_early.remove(ordinal)
            self._reopen(ordinal)
        elif ordinal >= self._version * self._groups_per_batch:
            self._accepted.add(ordinal)

    def fail(self, ordinal: int) -> None:
        """A running group came to nothing; it may be started again."""
        self._running.discard(ordinal)
        self._discarded_early.discard(ordinal)
        self._reopen(ordinal)

    def discard(self, ordinal: int) -> None:
        """A published group is not in the queue any more, refused by the trainer or lost; it may be started again.

        The news can overtake the answer to the publication. Then the group still runs here, and opens when that comes.
        """
        if ordinal in self._running:
            self._discarded_early.add(ordinal)
        self._accepted.discard(ordinal)
        self._reopen(ordinal)

    def _reopen(self, ordinal: int) -> None:
        trained = ordinal < self._version * self._groups_per_batch
        taken = ordinal in self._running or ordinal in self._accepted or ordinal in self._open
        if not trained and not taken and ordinal < self._limit:
            heapq.heappush(self._open, ordinal)
