"""When a replayed sequence begins, when each of its tokens is due, and which policy version that makes it."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ais.contracts.trajectory import PolicySpan


@dataclass(frozen=True)
class Pace:
    """How fast one sequence goes."""

    first_token_seconds: float
    tokens_per_second: float

    def due(self, begin: float, token: int) -> float:
        """When `token`, counted from 0, of a sequence that began at `begin` is there, in seconds of the same clock."""
        return begin + self.first_token_seconds + token / self.tokens_per_second

    def due_before(self, begin: float, when: float) -> int:
        """Number of tokens due before `when`."""
        return max(0, math.ceil((when - begin - self.first_token_seconds) * self.tokens_per_second))


@dataclass(frozen=True)
class Swap:
    """Policy `version` serves from `when` on."""

    when: float
    version: int


def replayed_spans(pace: Pace, begin: float, tokens: int, swaps: Sequence[Swap]) -> tuple[PolicySpan, ...]:
    """Which version served when each of `tokens` was due. `swaps` are in order, the first one not after `begin`."""
    serving = bisect_right(swaps, begin, key=lambda swap: swap.when) - 1
    spans: list[PolicySpan] = []
    covered = 0
    for swap, following in zip(swaps[serving:], (*swaps[serving + 1 :], None), strict=True):
        end = tokens if following is None else min(tokens, pace.due_before(begin, following.when))
        if end > covered:
            spans.append(PolicySpan(swap.version, covered, end))
            covered = end
    return tuple(spans)


class Slots:
    """So many sequences go at once; others wait, in the order they came.

    A slot passes on at the time its sequence was due to end, not when the event loop came to it: the pace of a whole
    replica holds although a busy machine makes each wake-up late.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity
        self._waiting: deque[asyncio.Future[float]] = deque()

    @property
    def taken(self) -> int:
        """Sequences that go now."""
        return self.capacity - self._free

    async def enter(self, now: float) -> float:
        """Waits for a slot; gives the time since when it is the caller's, `now` or later. Leave it with `leave`."""
        if self._free:
            self._free -= 1
            return now
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return max(now, await turn)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came together with the cancellation
                self.leave(turn.result())
            raise

    def leave(self, when: float) -> None:
        """Gives a slot back, free since `when`."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(when)
                return
        self._free += 1
