"""What a run's Redis says of a group that is not trained yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ais.contracts.dead_letters import ANY_VOCABULARY, DeadLetters
from ais.contracts.events import TrainerEvents
from ais.contracts.journey.description import described
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue, ordinal_of
from ais.contracts.trajectory import MalformedRecordError, TrajectoryBounds, decode_group, group_id_of
from ais.runtime.network.redis import RedisUnreachableError, connect
from ais.runtime.settings import RedisSettings

ENTRIES_A_READ = 8
"""An entry carries its whole group: they are read few at a time."""


@dataclass(frozen=True)
class Refusal:
    """A group of the ordinal that the trainer refused."""

    group_id: str
    reason: str
    time: float | None
    """Unix time, seconds."""


@dataclass(frozen=True)
class Live:
    """The run as its Redis knows it now."""

    version: int | None
    """The trainer's; None before it has told any."""
    finished: bool
    entry: Mapping[str, Any] | None
    """The ordinal's group in the queue, as `groups.jsonl` describes one."""
    arrived: frozenset[int]
    """Ordinals of the batch whose groups are in the queue."""
    refusals: tuple[Refusal, ...]
    """Groups of the ordinal that were refused, oldest first."""


async def look(settings: RedisSettings, run: str, ordinal: int, batch: range) -> Live | str:
    """What is known of `ordinal`, whose batch has the ordinals `batch`; or why the server cannot be asked."""
    keys = Keys(run)
    try:
        redis = await connect(settings)
    except RedisUnreachableError as error:
        return str(error)
    try:
        position = await TrainerEvents(redis, keys).position()
        arrived = await TrajectoryQueue(redis, keys).accepted(batch.start)
        return Live(
            version=position.version if position else None,
            finished=bool(position and position.finished),
            entry=await _entry(redis, keys, ordinal) if ordinal in arrived else None,
            arrived=frozenset(arrived & set(batch)),
            refusals=await _refusals(redis, keys, ordinal),
        )
    except RedisError as error:
        return f"Redis at {settings.url} does not do it: {error}"
    finally:
        await redis.aclose()


async def _entry(redis: Redis, keys: Keys, ordinal: int) -> Mapping[str, Any] | None:
    begin = "-"
    while rows := await redis.xrange(keys.groups, begin, "+", count=ENTRIES_A_READ):
        for entry_id, fields in cast(list[tuple[bytes, dict[bytes, bytes]]], rows):
            begin = f"({entry_id.decode()}"
            if ordinal_of(fields) != ordinal:
                continue
            try:
                group = decode_group(fields.get(b"group", b""), TrajectoryBounds(ANY_VOCABULARY))
            except MalformedRecordError:  # the trainer will refuse it and say why
                name = group_id_of(fields.get(b"group", b""))
                return {"group_id": name, "ordinal": ordinal, "entry_id": entry_id.decode()}
            return described(group, entry_id.decode())
    return None


async def _refusals(redis: Redis, keys: Keys, ordinal: int) -> tuple[Refusal, ...]:
    found = []
    async for letter in DeadLetters(redis, keys).all():
        if letter.ordinal == ordinal:
            message = letter.message()
            time = letter.time.timestamp() if letter.time else None
            found.append(Refusal(message.group_id if message else "", letter.reason, time))
    return tuple(found)
