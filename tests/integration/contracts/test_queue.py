"""The queue's promises, on a real Valkey server."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from ais.contracts.events import Discarded, Resumed, TrainerEvents
from ais.contracts.keys import Keys
from ais.contracts.queue import ALIEN_ORDINAL, TrajectoryQueue


async def prepared(redis: Redis, keys: Keys) -> TrajectoryQueue:
    queue = TrajectoryQueue(redis, keys)
    await queue.prepare()
    return queue


async def test_a_batch_comes_in_one_read_in_order_of_publication(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    for ordinal in (2, 0, 1):
        await queue.publish(ordinal, f"payload {ordinal}".encode())
    entries = await queue.read(count=10, block_seconds=0.1)
    assert [(entry.ordinal, entry.payload) for entry in entries] == [
        (2, b"payload 2"),
        (0, b"payload 0"),
        (1, b"payload 1"),
    ]


async def test_racing_publishers_add_an_ordinal_once(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    added = await asyncio.gather(*(queue.publish(5, b"x") for _ in range(20)))
    assert sum(added) == 1
    assert await queue.depth() == 1


async def test_an_entry_stays_pending_until_it_is_acknowledged(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    await queue.publish(0, b"x")
    entries = await queue.read(count=10, block_seconds=0.1)
    assert await queue.read(count=10, block_seconds=0.01) == []
    assert await TrajectoryQueue(redis, keys).read_pending(count=10) == entries
    await queue.acknowledge({entry.entry_id: entry.ordinal for entry in entries})
    assert await queue.read_pending(count=10) == []
    assert await queue.depth() == 0


async def test_an_entry_whose_reply_was_lost_is_found_after_the_last_one_seen(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    await queue.publish(0, b"seen")
    (seen,) = await queue.read(count=10, block_seconds=0.1)
    await queue.publish(1, b"lost")
    await queue.read(count=10, block_seconds=0.1)
    lost = await queue.read_pending(count=10, after=seen.entry_id)
    assert [entry.payload for entry in lost] == [b"lost"]


async def test_a_discarded_entry_is_kept_with_its_reason_and_its_ordinal_is_open_again(
    redis: Redis, keys: Keys
) -> None:
    queue, events = await prepared(redis, keys), TrainerEvents(redis, keys)
    await events.publish(Resumed(0, ""))
    await queue.publish(3, b"bad")
    (entry,) = await queue.read(count=10, block_seconds=0.1)
    await queue.discard(entry, "rewards: must be finite")
    assert await queue.depth() == 0
    assert await queue.accepted(0) == set()
    ((_, letter),) = await redis.xrange(keys.dead_letters)
    assert letter[b"reason"] == b"rewards: must be finite"
    assert letter[b"group"] == b"bad"
    assert await events.follow(0.1) == [Resumed(0, ""), Discarded(3, "rewards: must be finite")]
    assert await queue.publish(3, b"good")


async def test_accepted_ordinals_survive_for_a_restarted_collector(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    for ordinal in (3, 4, 9):
        await queue.publish(ordinal, b"x")
    assert await TrajectoryQueue(redis, keys).accepted(4) == {4, 9}


async def test_preparing_an_existing_queue_keeps_its_entries(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    await queue.publish(0, b"x")
    await queue.prepare()
    assert await queue.depth() == 1


async def test_what_somebody_else_wrote_into_the_stream_is_read_and_can_be_discarded(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    await redis.xadd(keys.groups, {"hello": "world"})
    await redis.xadd(keys.groups, {"ordinal": "x", "group": "y"})
    entries = await queue.read(count=10, block_seconds=0.1)
    assert [(entry.ordinal, entry.payload) for entry in entries] == [(ALIEN_ORDINAL, b""), (ALIEN_ORDINAL, b"y")]
    for entry in entries:
        await queue.discard(entry, "group: not a ScoredGroup")
    assert await queue.depth() == 0
    assert await redis.xlen(keys.dead_letters) == 2
    assert await redis.xlen(keys.events) == 0, "no ordinal is needed again"


async def test_a_refusal_that_is_repeated_leaves_the_group_published_since_alone(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    await queue.publish(3, b"bad")
    (entry,) = await queue.read(count=10, block_seconds=0.1)
    await queue.discard(entry, "reason")
    await queue.publish(3, b"good")
    await queue.discard(entry, "reason")
    assert await queue.accepted(0) == {3}
    assert await redis.xlen(keys.dead_letters) == 1
    assert await redis.xlen(keys.events) == 1


async def test_dropping_a_second_entry_keeps_its_ordinal_closed(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    await queue.publish(3, b"first")
    await redis.xadd(keys.groups, {"ordinal": 3, "group": b"second"})
    _, second = await queue.read(count=10, block_seconds=0.1)
    await queue.drop(second)
    assert await queue.accepted(0) == {3}
    assert [entry.payload for entry in await queue.read_pending(10)] == [b"first"]


async def test_a_new_trainer_claims_what_those_before_it_left_pending(redis: Redis, keys: Keys) -> None:
    await prepared(redis, keys)
    for incarnation in (1, 2):
        queue = TrajectoryQueue(redis, keys, incarnation)
        for ordinal in range(2):
            await queue.publish(10 * incarnation + ordinal, b"x")
        await queue.read(count=10, block_seconds=0.1)
    third = TrajectoryQueue(redis, keys, 3)
    first, after = await third.claim(count=3)
    assert after is not None
    rest, end = await third.claim(count=3, after=after)
    assert [entry.ordinal for entry in first + rest] == [10, 11, 20, 21]
    assert end is None
    await third.forget_consumers()
    assert [consumer["name"] for consumer in await redis.xinfo_consumers(keys.groups, "trainer")] == [b"trainer-3"]
    assert [entry.ordinal for entry in await third.read_pending(10)] == [10, 11, 20, 21]


async def test_ordinals_whose_entries_were_trimmed_or_deleted_are_open_again(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    for ordinal in range(200):  # more than the script reads at once
        await queue.publish(ordinal, b"x")
    await redis.xtrim(keys.groups, maxlen=150, approximate=False)
    middle = (await redis.xrange(keys.groups, count=3))[2][0]
    await redis.xdel(keys.groups, middle)
    lost = {*range(50), 52}
    assert await queue.reconcile() == lost
    assert await queue.accepted(0) == set(range(200)) - lost
    assert await queue.reconcile() == set()
    assert await queue.publish(52, b"again")


async def test_entries_of_an_evicted_set_of_ordinals_are_accepted_again(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    for ordinal in (3, 4, 9):
        await queue.publish(ordinal, b"x")
    await redis.delete(keys.accepted)
    await queue.reconcile()
    assert await queue.accepted(0) == {3, 4, 9}
    assert not await queue.publish(4, b"twice")


async def test_a_stream_that_is_gone_leaves_no_ordinal_accepted(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    await queue.publish(3, b"x")
    await redis.delete(keys.groups)
    assert await queue.reconcile() == {3}
    assert await queue.accepted(0) == set()


async def test_groups_a_trainer_holds_stay_accepted_until_it_acknowledges_them(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    await queue.publish(3, b"x")
    entries = await queue.read(count=10, block_seconds=0.1)
    assert await queue.reconcile() == set()
    await queue.acknowledge({entry.entry_id: entry.ordinal for entry in entries})
    assert await queue.reconcile() == set()
    assert await queue.accepted(0) == set()


async def test_what_somebody_else_wrote_does_not_disturb_the_ordinals(redis: Redis, keys: Keys) -> None:
    queue = await prepared(redis, keys)
    await queue.publish(3, b"x")
    await redis.zadd(keys.accepted, {"text": 7, b"\xff": 8})
    for ordinal in (b"\xff", b"-4", b"1e3", b"9" * 40):
        await redis.xadd(keys.groups, {"ordinal": ordinal, "group": b"y"})
    assert await queue.accepted(0) == {3}
    assert await queue.reconcile() == set()
    assert await redis.zrange(keys.accepted, 0, -1) == [b"3"]
    entries = await queue.read(count=10, block_seconds=0.1)
    assert [entry.ordinal for entry in entries] == [3, *[ALIEN_ORDINAL] * 4]
