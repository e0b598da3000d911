"""What the trainer tells the collector, in order and without loss, on a Redis stream.

Beside the stream the trainer keeps its position: which trainer of the run it is, and what it has. One script writes
event and position together, for the newest trainer only. A reader believes an event where the position bears it out and
the order of events allows it; anything else in the stream is skipped, counted and logged once, because a second run, an
older release or a restored server may have written it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, cast

from redis.asyncio import Redis
from redis.typing import EncodableT, FieldT

from ais.contracts.keys import Keys
from ais.contracts.limits import HIGHEST_VERSION, LONGEST_NAME
from ais.runtime.strays import Strays
from ais.runtime.text import printable

EVENTS_A_READ = 1000
"""Most entries that one call of `follow` reads."""
EVENTS_KEPT = 10_000
"""Older events are trimmed: a reader needs only the newest version to start."""

_ANNOUNCE = """
local known = tonumber(redis.call('HGET', KEYS[1], 'incarnation') or '')
if known and known > tonumber(ARGV[1]) then return false end
local newest = math.max(tonumber(redis.call('HGET', KEYS[1], 'newest') or '') or 0, tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'version', ARGV[2], 'finished', ARGV[4],
    'newest', string.format('%.0f', newest))
if ARGV[4] == '0' then redis.call('HSET', KEYS[1], 'digest', ARGV[3]) end
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', unpack(ARGV, 6))
"""


@dataclass(frozen=True)
class VersionPublished:
    """The trainer's policy is now `version`."""

    kind: ClassVar[str] = "version"
    version: int
    digest: str


@dataclass(frozen=True)
class Resumed:
    """A trainer has started, at `version`: 0, or that of its newest checkpoint. This may be an older version than a
    trainer that died had announced; the versions after it are trained again."""

    kind: ClassVar[str] = "resumed"
    version: int
    digest: str


@dataclass(frozen=True)
class Discarded:
    """The trainer refused the group of `ordinal`, which is needed again."""

    kind: ClassVar[str] = "discarded"
    ordinal: int
    reason: str


@dataclass(frozen=True)
class Finished:
    """The trainer needs no more groups."""

    kind: ClassVar[str] = "finished"
    version: int


Event = VersionPublished | Resumed | Discarded | Finished


class StrayEventError(ValueError):
    """An entry of the event stream that is no event, or that what is known of the trainer contradicts."""


@dataclass(frozen=True)
class Told:
    """An event, and which of the run's trainers told it."""

    incarnation: int
    event: Event

    def fields(self) -> dict[FieldT, EncodableT]:
        """As it stands in the stream."""
        fields: dict[FieldT, EncodableT] = {"kind": self.event.kind, "incarnation": self.incarnation}
        fields.update(asdict(self.event).items())
        return fields

    @classmethod
    def of(cls, fields: Mapping[bytes, bytes]) -> Told:
        """Raises StrayEventError for fields that `fields` would not have written."""
        event: Event
        match kind := fields.get(b"kind", b""):
            case b"version":
                event = VersionPublished(_number(fields, b"version"), _digest(fields))
            case b"resumed":
                event = Resumed(_number(fields, b"version"), _digest(fields))
            case b"discarded":
                event = Discarded(_number(fields, b"ordinal"), printable(fields.get(b"reason", b"")))
            case b"finished":
                event = Finished(_number(fields, b"version"))
            case _:
                raise StrayEventError(f"expected a trainer's event, got the kind {printable(kind, 60) or '(none)'}")
        return cls(_number(fields, b"incarnation"), event)


@dataclass(frozen=True)
class Position:
    """What the newest trainer has."""

    incarnation: int
    version: int
    digest: str
    finished: bool
    newest: int
    """Newest version that any trainer of the run has announced."""

    @classmethod
    def of(cls, fields: Mapping[bytes, bytes]) -> Position | None:
        """None: there is none, or somebody else wrote it."""
        try:
            incarnation, version, newest = (_number(fields, name) for name in (b"incarnation", b"version", b"newest"))
            return cls(incarnation, version, _digest(fields), fields.get(b"finished") == b"1", newest)
        except StrayEventError:
            return None


class EventOrder:
    """Judges events one after the other, as they stand in the stream. Pure."""

    def __init__(self) -> None:
        self._incarnation = -1
        self._version = -1
        self._digest = ""

    def check(self, told: Told, position: Position | None) -> None:
        """Raises StrayEventError unless the run's trainer can have told this now. `position` was read after it."""
        if position is None:
            raise StrayEventError("no trainer of this run has told anything yet")
        if told.incarnation > position.incarnation:
            raise StrayEventError(f"trainer {told.incarnation} has never started, the newest is {position.incarnation}")
        if told.incarnation < self._incarnation:
            raise StrayEventError(f"trainer {self._incarnation} has replaced trainer {told.incarnation}")
        if isinstance(told.event, Discarded):
            return
        current = told.incarnation == position.incarnation
        highest = position.version if current else position.newest
        if told.event.version > highest:
            raise StrayEventError(f"the trainer has no version {told.event.version}, its newest is {highest}")
        if isinstance(told.event, Finished):
            if current and not position.finished:
                raise StrayEventError("the trainer has not finished")
            return
        if current and told.event.version == position.version:
            _check_digest(told.event, position.digest)
        elif told.incarnation == self._incarnation:
            self._check_turn(told.event)
        self._incarnation, self._version, self._digest = told.incarnation, told.event.version, told.event.digest

    def _check_turn(self, event: Resumed | VersionPublished) -> None:
        """A trainer resumes once and then announces rising versions. An event that was written twice is the same."""
        if event.version < self._version or (isinstance(event, Resumed) and event.version != self._version):
            raise StrayEventError(f"{event.kind} {event.version} came after version {self._version} of one trainer")
        if event.version == self._version:
            _check_digest(event, self._digest)


class TrainerEvents:
    """Writes and follows the event stream of one run."""

    def __init__(self, redis: Redis, keys: Keys, incarnation: int = 0) -> None:
        """`incarnation`: of the trainer that publishes. Readers need none."""
        self._redis = redis
        self._keys = keys
        self._incarnation = incarnation
        self._last_id = "0"
        self._behind = False
        self._order = EventOrder()
        self._strays = Strays("event")
        self._announce = redis.register_script(_ANNOUNCE)

    @property
    def behind(self) -> bool:
        """Whether the last call of `follow` read as much as it may, so that there is probably more."""
        return self._behind

    async def publish(self, event: VersionPublished | Resumed | Finished) -> bool:
        """Tells the event and moves the position. False: a newer trainer has told something, nothing was written."""
        fields = Told(self._incarnation, event).fields()
        told = await self._announce(
            keys=[self._keys.position, self._keys.events],
            args=[
                self._incarnation,
                event.version,
                "" if isinstance(event, Finished) else event.digest,
                int(isinstance(event, Finished)),
                EVENTS_KEPT,
                *(part for pair in fields.items() for part in pair),
            ],
        )
        return told is not None

    async def position(self) -> Position | None:
        """Where the newest trainer is. None: none has told, or its position was lost."""
        return Position.of(cast(dict[bytes, bytes], await self._redis.hgetall(self._keys.position)))

    async def newest_version(self) -> int:
        """Newest version that any trainer of the run has announced; 0 if there is none."""
        position = await self.position()
        return 0 if position is None else position.newest

    async def follow(self, block_seconds: float) -> list[Event]:
        """Events since the last call, oldest first, without strays. The first call begins with the oldest.

        Waits up to `block_seconds` for an entry.
        """
        reply = await self._redis.xread(
            {self._keys.events: self._last_id}, count=EVENTS_A_READ, block=int(block_seconds * 1000)
        )
        streams = cast(list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]], reply or [])
        entries = [entry for _stream, rows in streams for entry in rows]
        position = await self.position() if entries else None
        events: list[Event] = []
        for entry_id, fields in entries:
            self._last_id = entry_id.decode()
            try:
                told = Told.of(fields)
                self._order.check(told, position)
            except StrayEventError as error:
                self._strays.skip(fields.get(b"kind", b"(no kind)"), str(error))
            else:
                events.append(told.event)
        self._behind = len(entries) == EVENTS_A_READ
        return events


def _number(fields: Mapping[bytes, bytes], name: bytes) -> int:
    value = fields.get(name, b"")
    if not re.fullmatch(rb"\d{1,16}", value) or int(value) >= HIGHEST_VERSION:
        raise StrayEventError(f"{name.decode()}: expected a number from 0 to 2^53, got {printable(value, 60)!r}")
    return int(value)


def _digest(fields: Mapping[bytes, bytes]) -> str:
    value = fields.get(b"digest", b"")
    if len(value) > LONGEST_NAME or not (text := value.decode(errors="replace")).isprintable() or not text.isascii():
        raise StrayEventError(f"digest: expected printable ASCII, got {printable(value, 60)!r}")
    return text


def _check_digest(event: Resumed | VersionPublished, digest: str) -> None:
    if event.digest != digest:
        raise StrayEventError(
            f"version {event.version} has the digest {printable(digest, 80)}, not {printable(event.digest, 80)}"
        )
