"""What the trainer tells the collector, in order and without loss, on a Redis stream."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, cast

from redis.asyncio import Redis
from redis.typing import EncodableT, FieldT

from ais.contracts.keys import Keys

EVENTS_A_READ = 1000
"""Most events that one call of `follow` gives: fewer mean that there are no more for now."""
EVENTS_KEPT = 10_000
"""Old events are trimmed beyond about this many; a reader needs only the newest version to start."""


@dataclass(frozen=True)
class VersionPublished:
    """The trainer's policy is now `version`."""

    kind: ClassVar[str] = "version"
    version: int
    digest: str

    def fields(self) -> dict[FieldT, EncodableT]:
        return _fields(self)


@dataclass(frozen=True)
class Resumed:
    """A trainer has started, at `version`: 0, or what its newest checkpoint has. It may be an older version than one
    announced before, whose trainer died; what that one trained since is trained again."""

    kind: ClassVar[str] = "resumed"
    version: int
    digest: str

    def fields(self) -> dict[FieldT, EncodableT]:
        return _fields(self)


@dataclass(frozen=True)
class Discarded:
    """The group of `ordinal` was refused by the trainer; it is needed again."""

    kind: ClassVar[str] = "discarded"
    ordinal: int
    reason: str

    def fields(self) -> dict[FieldT, EncodableT]:
        return _fields(self)


@dataclass(frozen=True)
class Finished:
    """The trainer needs no more groups."""

    kind: ClassVar[str] = "finished"
    version: int

    def fields(self) -> dict[FieldT, EncodableT]:
        return _fields(self)


Event = VersionPublished | Resumed | Discarded | Finished


class TrainerEvents:
    """Writes and follows the event stream of one run."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._last_id = "0"

    async def publish(self, event: Event) -> None:
        await self._redis.xadd(self._keys.events, event.fields(), maxlen=EVENTS_KEPT, approximate=True)

    async def newest_version(self) -> int:
        """The highest version in the stream; 0 if there is none."""
        rows = cast(list[tuple[bytes, dict[bytes, bytes]]], await self._redis.xrange(self._keys.events))
        return max((int(fields[b"version"]) for _entry_id, fields in rows if b"version" in fields), default=0)

    async def follow(self, block_seconds: float) -> list[Event]:
        """Events since the last call, oldest first; waits up to `block_seconds` for one. The first call replays all."""
        reply = await self._redis.xread(
            {self._keys.events: self._last_id}, count=EVENTS_A_READ, block=int(block_seconds * 1000)
        )
        events: list[Event] = []
        for _stream, rows in cast(list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]], reply or []):
            for entry_id, fields in rows:
                self._last_id = entry_id.decode()
                events.append(_decode({key.decode(): value.decode() for key, value in fields.items()}))
        return events


def _fields(event: Event) -> dict[FieldT, EncodableT]:
    fields: dict[FieldT, EncodableT] = {"kind": event.kind}
    fields.update(asdict(event).items())
    return fields


def _decode(fields: dict[str, str]) -> Event:
    match fields["kind"]:
        case VersionPublished.kind:
            return VersionPublished(version=int(fields["version"]), digest=fields["digest"])
        case Resumed.kind:
            return Resumed(version=int(fields["version"]), digest=fields["digest"])
        case Discarded.kind:
            return Discarded(ordinal=int(fields["ordinal"]), reason=fields["reason"])
        case Finished.kind:
            return Finished(version=int(fields["version"]))
        case kind:
            raise ValueError(f"unknown trainer event {kind!r}: collector and trainer are of different releases")
