"""Moves groups from the queue into the intake while the optimizer works."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ais.contracts.queue import Entry, TrajectoryQueue
from ais.contracts.trajectory import group_id_of
from ais.runtime.network.patience import persist
from ais.runtime.network.redis import is_away
from ais.trainer.groups.intake import Buffered, Duplicate, Intake, Known, Refused
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.settings import Settings

BLOCK_SECONDS = 1.0
"""How long the server holds one read that finds nothing."""
CLAIMED_AT_ONCE = 32
"""Entries taken over in one round trip."""

logger = logging.getLogger(__name__)


class QueueLostError(RuntimeError):
    """The queue that this trainer prepared and read from is gone."""


def no_hidden_retries(redis: Redis) -> None:
    """Makes the client report a lost connection at once, as a reader needs.

    When the answer to a read is lost, the server has already handed its entries out. A client that quietly reads again
    gets the entries after them, and nobody ever looks for the first ones.
    """
    redis.set_retry(Retry(NoBackoff(), 0))


class GroupReader:
    """Reads and judges groups, and answers the queue for them: what will not be trained on, and what is durable."""

    def __init__(self, queue: TrajectoryQueue, intake: Intake, metrics: TrainerMetrics, settings: Settings) -> None:
        """`queue`: on a client with `no_hidden_retries`."""
        self._queue = queue
        self._intake = intake
        self._metrics = metrics
        self._count = settings.run.groups_per_batch
        """Entries to ask for in one round trip."""
        self._patience_seconds = settings.trainer.redis_patience_seconds
        self._arrived = asyncio.Event()

    async def run(self) -> None:
        """Takes over what trainers before this one left pending, then reads until cancelled. Raises
        RedisUnreachableError when Redis stays away."""
        await self._claim()
        while True:
            try:
                entries = await self._queue.read(self._count, BLOCK_SECONDS)
            except RedisError as error:
                if "NOGROUP" in str(error):
                    raise QueueLostError(
                        "Redis has come back without the run's queue: it keeps nothing on disk, or was emptied. A "
                        "trainer that starts now goes on from the newest checkpoint, and the collector makes the "
                        "groups after it again; docs/operations.md says how Redis keeps them."
                    ) from error
                if not is_away(error):
                    raise
                # The server may have handed entries out in an answer that was lost; they are pending, in our name.
                entries = await self._pending()
            await self._take_in(entries)

    async def _claim(self) -> None:
        after: str | None = "0"
        while after is not None:
            claim = partial(self._queue.claim, CLAIMED_AT_ONCE, after)
            entries, after = await persist(claim, self._patience_seconds)
            await self._take_in(entries)
        await persist(self._queue.forget_consumers, self._patience_seconds)

    async def batch_arrived(self) -> None:
        """Returns when the next batch is complete."""
        while not self._intake.complete():
            self._arrived.clear()
            await self._arrived.wait()

    async def acknowledge(self, entries: Mapping[str, int]) -> None:
        """Entries (id: ordinal) are trained and durable: the queue forgets them."""
        await persist(partial(self._queue.acknowledge, entries), self._patience_seconds)
        self._intake.forget(entries)

    async def refuse(self, item: Buffered, field: str, reason: str) -> None:
        """Sends a group that had been accepted to the dead letters; the collector makes another in its place."""
        self._intake.remove(item)
        await self._discard(item.entry, Refused(field, reason))

    async def _discard(self, entry: Entry, refused: Refused) -> None:
        field, reason = refused.field, refused.reason
        self._metrics.queue.count_discarded(field)
        logger.warning("group refused: %s: %s", field, reason, extra=_named(entry))
        await persist(partial(self._queue.discard, entry, f"{field}: {reason}"), self._patience_seconds)

    async def _pending(self) -> list[Entry]:
        pending: list[Entry] = []
        while True:
            after = pending[-1].entry_id if pending else "0"
            page = await persist(partial(self._queue.read_pending, self._count, after), self._patience_seconds)
            if not page:
                return pending
            pending += page

    async def _take_in(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            await asyncio.sleep(0)  # decoding a batch takes long enough to keep the optimizer waiting
            match self._intake.judge(entry):
                case Buffered() as buffered:
                    logger.debug("a group has come", extra={"group": buffered.group.group_id})
                    self._arrived.set()
                case Known():
                    pass
                case Duplicate():
                    self._metrics.queue.duplicates.inc()
                    logger.info("group came twice, the second is dropped", extra=_named(entry))
                    await persist(partial(self._queue.drop, entry), self._patience_seconds)
                case Refused() as refused:
                    await self._discard(entry, refused)


def _named(entry: Entry) -> dict[str, object]:
    """Fields of a log line about an entry."""
    return {"group": group_id_of(entry.payload) or "unknown", "ordinal": entry.ordinal}
