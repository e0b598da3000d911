"""The event stream on a real Valkey server."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from ais.contracts.events import Event, Finished, Position, Resumed, TrainerEvents, VersionPublished
from ais.contracts.keys import Keys
from ais.runtime.strays import STRAYS


async def test_events_are_followed_in_order_and_replayed_to_a_newcomer(redis: Redis, keys: Keys) -> None:
    events: list[Event] = [VersionPublished(0, "blake3:a"), VersionPublished(1, "blake3:b"), Finished(1)]
    writer, early = TrainerEvents(redis, keys), TrainerEvents(redis, keys)
    for event in events:
        assert await writer.publish(event)  # type: ignore[arg-type]
    assert await early.follow(0.1) == events
    assert await early.follow(0.01) == []
    assert await TrainerEvents(redis, keys).follow(0.1) == events
    assert await early.position() == Position(0, 1, "blake3:b", finished=True, newest=1)


async def test_strays_between_events_are_skipped_counted_and_logged_once(
    redis: Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    writer, reader = TrainerEvents(redis, keys, incarnation=3), TrainerEvents(redis, keys)
    told = [Resumed(2, "d2"), VersionPublished(3, "d3")]
    counted = STRAYS.labels("event")._value.get()
    await writer.publish(told[0])
    for _ in range(10):
        await redis.xadd(keys.events, {b"\xff\xfe": b"\x00", b"kind": b"\xff"})
        await redis.xadd(keys.events, {"kind": "resumed", "version": 0, "digest": ""})
        await redis.xadd(keys.events, {"kind": "version", "incarnation": 3, "version": 10**12, "digest": ""})
        await redis.xadd(keys.events, {"kind": "finished", "incarnation": 3, "version": 2})
    await writer.publish(told[1])
    assert await reader.follow(0.1) == told
    assert STRAYS.labels("event")._value.get() - counted == 40
    assert len(caplog.records) == 4


async def test_a_trainer_that_was_replaced_tells_nothing_any_more(redis: Redis, keys: Keys) -> None:
    old, new = TrainerEvents(redis, keys, incarnation=1), TrainerEvents(redis, keys, incarnation=2)
    assert await old.publish(Resumed(0, "d0"))
    assert await old.publish(VersionPublished(4, "d4"))
    assert await new.publish(Resumed(3, "d3"))
    assert not await old.publish(VersionPublished(5, "d5"))
    assert await TrainerEvents(redis, keys).follow(0.1) == [
        Resumed(0, "d0"),
        VersionPublished(4, "d4"),
        Resumed(3, "d3"),
    ]
    assert await new.newest_version() == 4, "groups for it may have been admitted"


async def test_a_position_that_somebody_else_wrote_is_none(redis: Redis, keys: Keys) -> None:
    await redis.hset(keys.position, mapping={"incarnation": b"\xff", "version": "x", "newest": "-1"})
    events = TrainerEvents(redis, keys)
    assert await events.position() is None
    assert await events.newest_version() == 0
    assert await events.publish(Resumed(0, ""))
    assert await events.position() == Position(0, 0, "", finished=False, newest=0)
