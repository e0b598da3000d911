"""Dead letters: queue entries that must not be trained on, kept with their reason for a person to look at.

The ordinal of a discarded group is open again, and the collector has it sampled anew. So a letter may go back to the
queue only while nothing has taken its place. The trainer then judges it again like any other entry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import cast

from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.queue import ordinal_of
from ais.contracts.trajectory import MalformedRecordError, TrajectoryBounds, decode_group
from ais.contracts.v1 import trajectory_pb2 as pb

LETTERS_A_READ = 20
"""A letter carries its whole group: they are read few at a time."""
LAST_ID = "-".join([str(2**64 - 1)] * 2)
"""The highest id that a stream can have."""
ANY_VOCABULARY = 1 << 31
"""No model is known here, so token ids are not judged."""

_REQUEUE = """
local letters = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if #letters == 0 then return 'unknown' end
local letter = {}
for index = 1, #letters[1][2], 2 do letter[letters[1][2][index]] = letters[1][2][index + 1] end
local ordinal = tonumber(letter['ordinal'])
if not ordinal or ordinal < 0 then return 'alien' end
if redis.call('ZSCORE', KEYS[2], letter['ordinal']) then return 'replaced' end

if redis.call('HGET', KEYS[4], 'finished') == '1' then return 'finished' end
local version = tonumber(redis.call('HGET', KEYS[4], 'version') or '')
if version and ordinal < version * tonumber(ARGV[2]) then return 'trained' end

redis.call('ZADD', KEYS[2], letter['ordinal'], letter['ordinal'])
redis.call('XADD', KEYS[3], '*', 'ordinal', letter['ordinal'], 'group', letter['group'])
redis.call('XDEL', KEYS[1], ARGV[1])
return 'requeued'
"""


class Requeued(StrEnum):
    """What became of a letter that was to go back."""

    REQUEUED = "requeued"
    UNKNOWN = "unknown"
    """There is no such letter."""
    ALIEN = "alien"
    """No collector wrote the entry: it has no ordinal."""
    REPLACED = "replaced"
    """Another group of its ordinal is in the queue."""
    TRAINED = "trained"
    """The batch of its ordinal has been trained."""
    FINISHED = "finished"
    """The run needs no more groups."""


@dataclass(frozen=True)
class DeadLetter:
    """One discarded entry."""

    letter_id: str
    """Its id in the dead-letter stream."""
    entry_id: str
    """The id it had in the queue."""
    ordinal: int
    reason: str
    payload: bytes

    @property
    def time(self) -> datetime | None:
        """When it was discarded, by the server's clock. None: somebody wrote it with an id that is no time."""
        try:
            return datetime.fromtimestamp(int(self.letter_id.partition("-")[0]) / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            return None

    def message(self) -> pb.ScoredGroup | None:
        """The group as far as protobuf can read it, without validation. None: the payload is no such message."""
        try:
            return pb.ScoredGroup.FromString(self.payload) if self.payload else None
        except DecodeError:
            return None

    def fault(self) -> str | None:
        """What is wrong with the record itself. None: nothing, it was refused for another reason."""
        try:
            decode_group(self.payload, TrajectoryBounds(ANY_VOCABULARY))
        except MalformedRecordError as error:
            return str(error)
        return None


class DeadLetters:
    """The dead letters of one run."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._requeue = redis.register_script(_REQUEUE)

    async def all(self) -> AsyncIterator[DeadLetter]:
        """Oldest first."""
        begin = "-"
        while letters := await self._read(begin, "+"):
            for letter in letters:
                yield letter
            if letters[-1].letter_id == LAST_ID:  # Redis knows nothing after it
                return
            begin = f"({letters[-1].letter_id}"

    async def get(self, letter_id: str) -> DeadLetter | None:
        return next(iter(await self._read(letter_id, letter_id)), None)

    async def requeue(self, letter_id: str, groups_per_batch: int) -> Requeued:
        """Puts a letter back into the queue unless its ordinal has been taken or trained; one script."""
        keys = [self._keys.dead_letters, self._keys.accepted, self._keys.groups, self._keys.position]
        return Requeued(cast(bytes, await self._requeue(keys=keys, args=[letter_id, groups_per_batch])).decode())

    async def _read(self, begin: str, end: str) -> list[DeadLetter]:
        rows = await self._redis.xrange(self._keys.dead_letters, begin, end, count=LETTERS_A_READ)
        return [
            DeadLetter(
                letter_id=letter_id.decode(),
                entry_id=fields.get(b"entry", b"").decode(errors="replace"),
                ordinal=ordinal_of(fields),
                reason=fields.get(b"reason", b"").decode(errors="replace"),
                payload=fields.get(b"group", b""),
            )
            for letter_id, fields in cast(list[tuple[bytes, dict[bytes, bytes]]], rows)
        ]
