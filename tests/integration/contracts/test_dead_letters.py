"""Dead letters on a real Valkey server: what can be seen of them, and when they may go back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from ais.contracts.dead_letters import LETTERS_A_READ, DeadLetter, DeadLetters, Requeued
from ais.contracts.events import Finished, Resumed, TrainerEvents, VersionPublished
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue

GROUPS_PER_BATCH = 4


@pytest.fixture
async def queue(redis: Redis, keys: Keys) -> TrajectoryQueue:
    queue = TrajectoryQueue(redis, keys)
    await queue.prepare()
    return queue


@pytest.fixture
def letters(redis: Redis, keys: Keys) -> DeadLetters:
    return DeadLetters(redis, keys)


async def discarded(queue: TrajectoryQueue, letters: DeadLetters, ordinal: int, payload: bytes = b"x") -> DeadLetter:
    await queue.publish(ordinal, payload)
    (entry,) = await queue.read(1, block_seconds=1)
    await queue.discard(entry, "rewards: must be finite")
    return [letter async for letter in letters.all()][-1]


async def test_letters_come_oldest_first_and_whole_however_many(queue: TrajectoryQueue, letters: DeadLetters) -> None:
    count = 2 * LETTERS_A_READ + 1
    for ordinal in range(count):
        await queue.publish(ordinal, b"payload %d" % ordinal)
    for entry in await queue.read(count, block_seconds=1):
        await queue.discard(entry, f"reason {entry.ordinal}")
    found = [letter async for letter in letters.all()]
    assert [(one.ordinal, one.reason, one.payload) for one in found] == [
        (ordinal, f"reason {ordinal}", b"payload %d" % ordinal) for ordinal in range(count)
    ]
    assert abs(found[0].time - datetime.now(UTC)) < timedelta(minutes=1)
    assert await letters.get(found[7].letter_id) == found[7]
    assert await letters.get("1-0") is None


async def test_a_letter_goes_back_once_and_is_a_queue_entry_again(
    queue: TrajectoryQueue, letters: DeadLetters, redis: Redis, keys: Keys
) -> None:
    letter = await discarded(queue, letters, 5, b"a group")
    outcomes = await asyncio.gather(*(letters.requeue(letter.letter_id, GROUPS_PER_BATCH) for _ in range(3)))
    assert sorted(outcomes) == [Requeued.REQUEUED, Requeued.UNKNOWN, Requeued.UNKNOWN]
    (entry,) = await queue.read(10, block_seconds=1)
    assert (entry.ordinal, entry.payload) == (5, b"a group")
    assert await queue.accepted(0) == {5}
    assert not await queue.publish(5, b"generated anew")
    assert await redis.xlen(keys.dead_letters) == 0


async def test_a_letter_whose_ordinal_was_generated_anew_stays(queue: TrajectoryQueue, letters: DeadLetters) -> None:
    letter = await discarded(queue, letters, 5)
    await queue.publish(5, b"new")
    assert await letters.requeue(letter.letter_id, GROUPS_PER_BATCH) is Requeued.REPLACED
    assert [entry.payload for entry in await queue.read(10, block_seconds=1)] == [b"new"]
    assert await letters.get(letter.letter_id) == letter


async def test_a_letter_whose_batch_has_been_trained_stays(
    queue: TrajectoryQueue, letters: DeadLetters, redis: Redis, keys: Keys
) -> None:
    events = TrainerEvents(redis, keys)
    trained, wanted = await discarded(queue, letters, 7), await discarded(queue, letters, 8)
    await events.publish(VersionPublished(2, "blake3:0"))
    for ordinal in range(150):  # the version is not among the newest events
        await redis.xadd(keys.events, {"kind": "version", "version": ordinal, "digest": "", "incarnation": 0})
    assert await letters.requeue(trained.letter_id, GROUPS_PER_BATCH) is Requeued.TRAINED
    assert await letters.requeue(wanted.letter_id, GROUPS_PER_BATCH) is Requeued.REQUEUED


async def test_after_a_resume_at_an_older_version_its_ordinals_are_wanted_again(
    queue: TrajectoryQueue, letters: DeadLetters, redis: Redis, keys: Keys
) -> None:
    events = TrainerEvents(redis, keys)
    letter = await discarded(queue, letters, 7)
    await events.publish(VersionPublished(2, "blake3:0"))
    await events.publish(Finished(2))
    await TrainerEvents(redis, keys, incarnation=1).publish(Resumed(1, "blake3:0"))
    assert await letters.requeue(letter.letter_id, GROUPS_PER_BATCH) is Requeued.REQUEUED


async def test_a_finished_run_takes_nothing_back(
    queue: TrajectoryQueue, letters: DeadLetters, redis: Redis, keys: Keys
) -> None:
    letter = await discarded(queue, letters, 7)
    await TrainerEvents(redis, keys).publish(Finished(1))
    assert await letters.requeue(letter.letter_id, GROUPS_PER_BATCH) is Requeued.FINISHED


async def test_what_no_collector_wrote_is_listed_and_never_goes_back(
    queue: TrajectoryQueue, letters: DeadLetters, redis: Redis, keys: Keys
) -> None:
    await redis.xadd(keys.groups, {"hello": b"\xff"})
    (entry,) = await queue.read(1, block_seconds=1)
    await queue.discard(entry, "group: not a ScoredGroup")
    await redis.xadd(keys.dead_letters, {"hello": b"\xff"})
    first, second = [letter async for letter in letters.all()]
    assert (first.message(), first.fault() is None) == (None, False)
    for letter in (first, second):
        assert await letters.requeue(letter.letter_id, GROUPS_PER_BATCH) is Requeued.ALIEN
