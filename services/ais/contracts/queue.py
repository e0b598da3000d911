"""The trajectory queue: scored groups from collector to trainer, on a Redis stream with one consumer group.

What it promises:
- An ordinal is published at most once until it is acknowledged, however often a publish is retried or raced: one Lua
  script checks and adds. A publish whose answer is lost, and that is retried after the acknowledgement, adds a second
  entry: the trainer knows what it has trained, and drops it.
- An entry stays pending until the trainer acknowledges it, which it does after the work is durable. The next trainer
  claims what a dead one left pending.
- One script moves an entry that must not be trained on to the dead-letter stream with its reason, opens its ordinal
  again and tells the collector: nothing vanishes silently.
- The set of accepted ordinals can be rebuilt from the stream at any time, because the stream is the truth. So entries
  that somebody trimmed, deleted or evicted are found and generated again.

The collector's admission bounds it; entries that nobody has read are never trimmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ais.contracts.events import Discarded, Told
from ais.contracts.keys import Keys

CONSUMER_GROUP = "trainer"
ALIEN_ORDINAL = -1
"""Ordinal of an entry that no collector wrote."""
LONGEST_ORDINAL = 15
"""Digits of an ordinal; Lua keeps so many exact."""
DEAD_LETTER_LIMIT = 1_000
"""Dead letters kept for a person to look at; the oldest go first."""

_PUBLISH_ONCE = """
if redis.call('ZADD', KEYS[1], 'NX', ARGV[1], ARGV[1]) == 0 then return false end
return redis.call('XADD', KEYS[2], '*', 'ordinal', ARGV[1], 'group', ARGV[2])
"""

_DISCARD_ONCE = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return false end
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[6], '*',
    'entry', ARGV[2], 'ordinal', ARGV[3], 'reason', ARGV[4], 'group', ARGV[5])
if tonumber(ARGV[3]) < 0 then return true end
redis.call('ZREM', KEYS[3], ARGV[3])
return redis.call('XADD', KEYS[4], '*', unpack(ARGV, 7))
"""

_RECONCILE = """
local standing, lost, after = {}, {}, '-'
repeat
    local entries = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 64)
    for _, entry in ipairs(entries) do
        for index = 1, #entry[2], 2 do
            local value = entry[2][index + 1]
            if entry[2][index] == 'ordinal' and #value <= 15 and string.match(value, '^%d+$') then
                standing[value] = true
            end
        end
        after = '(' .. entry[1]
    end
until #entries < 64
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if standing[member] then
        standing[member] = nil
    else
        redis.call('ZREM', KEYS[2], member)
        table.insert(lost, member)
    end
end
for ordinal, _ in pairs(standing) do redis.call('ZADD', KEYS[2], ordinal, ordinal) end
return lost
"""


@dataclass(frozen=True)
class Entry:
    """One queue entry as read, not yet validated."""

    entry_id: str
    ordinal: int
    payload: bytes


class TrajectoryQueue:
    """One run's queue. Every call is one round trip."""

    def __init__(self, redis: Redis, keys: Keys, incarnation: int = 0) -> None:
        """`incarnation`: of the trainer that reads; it names the consumer."""
        self._redis = redis
        self._keys = keys
        self._incarnation = incarnation
        self._consumer = f"trainer-{incarnation}"
        self._publish_once = redis.register_script(_PUBLISH_ONCE)
        self._discard_once = redis.register_script(_DISCARD_ONCE)
        self._reconcile = redis.register_script(_RECONCILE)

    async def prepare(self) -> None:
        """Creates stream and consumer group; does nothing when they exist."""
        try:
            await self._redis.xgroup_create(self._keys.groups, CONSUMER_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def publish(self, ordinal: int, payload: bytes) -> bool:
        """Adds an encoded ScoredGroup. False: this ordinal had been accepted before, nothing was added."""
        added = await self._publish_once(
            keys=[self._keys.accepted, self._keys.groups], args=[str(ordinal).encode(), payload]
        )
        return added is not None

    async def accepted(self, begin: int) -> set[int]:
        """Ordinals from `begin` on that have been accepted."""
        members = await self._redis.zrange(self._keys.accepted, begin, "+inf", byscore=True)
        return {int(member) for member in cast(list[bytes], members) if member.isdigit()}

    async def reconcile(self) -> set[int]:
        """Rebuilds the accepted ordinals from the stream, in one script, and returns those whose entry was gone.

        They can be published again. The server reads the whole stream for it: call it when a trainer or a collector
        starts and when nothing moves, not in a loop.
        """
        lost = cast(list[bytes], await self._reconcile(keys=[self._keys.groups, self._keys.accepted]))
        return {int(member) for member in lost if member.isdigit()}

    async def read(self, count: int, block_seconds: float) -> list[Entry]:
        """Up to `count` new entries in one round trip; waits up to `block_seconds` for the first one."""
        return self._entries(
            await self._redis.xreadgroup(
                CONSUMER_GROUP, self._consumer, {self._keys.groups: ">"}, count=count, block=int(block_seconds * 1000)
            )
        )

    async def read_pending(self, count: int, after: str = "0") -> list[Entry]:
        """Entries this consumer has read and not acknowledged, oldest first."""
        return self._entries(
            await self._redis.xreadgroup(CONSUMER_GROUP, self._consumer, {self._keys.groups: after}, count=count)
        )

    async def claim(self, count: int, after: str = "0") -> tuple[list[Entry], str | None]:
        """Takes over up to `count` entries that any consumer has pending, oldest first; and where to go on, or None.

        Only the one trainer that may read calls this: no consumer but itself is alive.
        """
        reply = await self._redis.xautoclaim(
            self._keys.groups, CONSUMER_GROUP, self._consumer, min_idle_time=0, start_id=after, count=count
        )
        cursor, rows = cast(tuple[bytes, list[tuple[bytes, dict[bytes, bytes] | None]]], tuple(reply[:2]))
        return self._entries([(b"", rows)]), None if cursor == b"0-0" else cursor.decode()

    async def forget_consumers(self) -> None:
        """Removes other consumers that have nothing pending: those of trainers before this one."""
        consumers = await self._redis.xinfo_consumers(self._keys.groups, CONSUMER_GROUP)
        for consumer in consumers:
            if consumer["name"].decode() != self._consumer and consumer["pending"] == 0:
                await self._redis.xgroup_delconsumer(self._keys.groups, CONSUMER_GROUP, consumer["name"])

    async def acknowledge(self, entries: Mapping[str, int]) -> None:
        """Forgets entries (id: ordinal) whose effect is durable, with their payloads and ordinals."""
        if not entries:
            return
        entry_ids = list(entries)
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xack(self._keys.groups, CONSUMER_GROUP, *entry_ids)
            pipeline.xdel(self._keys.groups, *entry_ids)
            pipeline.zrem(self._keys.accepted, *map(str, entries.values()))
            await pipeline.execute()

    async def drop(self, entry: Entry) -> None:
        """Forgets a second entry of an ordinal; the first one stays."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xack(self._keys.groups, CONSUMER_GROUP, entry.entry_id)
            pipeline.xdel(self._keys.groups, entry.entry_id)
            await pipeline.execute()

    async def discard(self, entry: Entry, reason: str) -> None:
        """Moves an entry to the dead-letter stream and asks the collector to generate its ordinal again.

        Repeating it does nothing: what belongs to a group published since is left alone.
        """
        event = Told(self._incarnation, Discarded(entry.ordinal, reason)).fields()
        await self._discard_once(
            keys=[self._keys.groups, self._keys.dead_letters, self._keys.accepted, self._keys.events],
            args=[
                CONSUMER_GROUP,
                entry.entry_id,
                entry.ordinal,
                reason,
                entry.payload,
                DEAD_LETTER_LIMIT,
                *(part for pair in event.items() for part in pair),
            ],
        )

    async def depth(self) -> int:
        """Groups in the stream: published and not yet acknowledged."""
        return int(await self._redis.xlen(self._keys.groups))

    async def dead_letters(self) -> int:
        """Entries that were discarded and are kept."""
        return int(await self._redis.xlen(self._keys.dead_letters))

    @staticmethod
    def _entries(reply: object) -> list[Entry]:
        streams = cast(list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes] | None]]]], reply or [])
        return [
            Entry(entry_id.decode(), ordinal_of(fields), fields.get(b"group", b""))
            for _stream, rows in streams
            for entry_id, fields in rows
            if fields is not None  # deleted since it was read
        ]


def ordinal_of(fields: Mapping[bytes, bytes]) -> int:
    """The ordinal of a stream entry; ALIEN_ORDINAL where somebody else wrote it, to be refused where it is judged."""
    ordinal = fields.get(b"ordinal", b"")
    return int(ordinal) if ordinal.isdigit() and len(ordinal) <= LONGEST_ORDINAL else ALIEN_ORDINAL
