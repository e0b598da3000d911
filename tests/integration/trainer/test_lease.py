"""One trainer a run: who may train it, and who has been taken over from."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RunSettings
from ais.trainer.history import lease
from ais.trainer.history.lease import take_lease


@pytest.fixture
def run(run_name: str, tmp_path: Path) -> RunSettings:
    return RunSettings(name=run_name, directory=tmp_path)


async def test_each_trainer_has_a_larger_number_than_those_before(redis: Redis, run: RunSettings) -> None:
    for expected in (1, 2, 3):
        async with take_lease(redis, run, 5.0) as taken:
            assert taken.incarnation == expected


async def test_the_number_grows_also_when_redis_has_lost_it(redis: Redis, run: RunSettings) -> None:
    async with take_lease(redis, run, 5.0):
        pass
    await redis.delete(Keys(run.name).incarnation, Keys(run.name).identity)
    async with take_lease(redis, run, 5.0) as taken:
        assert taken.incarnation == 2


@pytest.mark.parametrize("stray", [b"text", b"\xff\x00", b"-7", b"1.5", b"9" * 40, b""])
async def test_the_number_grows_also_when_somebody_wrote_over_it(redis: Redis, run: RunSettings, stray: bytes) -> None:
    async with take_lease(redis, run, 5.0) as taken:
        await redis.set(Keys(run.name).incarnation, stray)
        await taken.check()
    async with take_lease(redis, run, 5.0) as taken:
        assert taken.incarnation == 2


async def test_an_identity_that_is_no_text_is_that_of_another_run(redis: Redis, run: RunSettings) -> None:
    await redis.set(Keys(run.name).identity, b"\xff\x1b[2J")
    with pytest.raises(UnavailableError, match="not the one of"):
        await take_lease(redis, run, 5.0).__aenter__()


async def test_a_second_trainer_is_refused_while_the_first_lives(
    redis: Redis, run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOCK_SECONDS", 0.2)
    async with take_lease(redis, run, 5.0):
        with pytest.raises(UnavailableError, match="another trainer runs on"):
            await take_lease(redis, run, 5.0).__aenter__()


async def test_a_second_trainer_waits_for_one_that_is_about_to_end(redis: Redis, run: RunSettings) -> None:
    async with take_lease(redis, run, 5.0):
        second = asyncio.create_task(take_lease(redis, run, 5.0).__aenter__())
        await asyncio.wait([second], timeout=0.1)
        assert not second.done()
    assert (await second).incarnation == 2


async def test_a_trainer_that_was_taken_over_from_learns_it(redis: Redis, run: RunSettings) -> None:
    async with take_lease(redis, run, 5.0) as taken:
        await taken.check()
        await redis.incr(Keys(run.name).incarnation)
        with pytest.raises(UnavailableError, match="trainer 2 of this run has taken over"):
            await taken.check()


async def test_another_run_of_the_same_name_in_redis_is_refused(redis: Redis, run: RunSettings, tmp_path: Path) -> None:
    async with take_lease(redis, run, 5.0):
        pass
    elsewhere = run.model_copy(update={"directory": tmp_path / "elsewhere"})
    with pytest.raises(UnavailableError, match="choose another run.name|Choose another run.name"):
        await take_lease(redis, elsewhere, 5.0).__aenter__()


async def test_a_run_cannot_go_on_with_another_batch_size(redis: Redis, run: RunSettings) -> None:
    async with take_lease(redis, run, 5.0):
        pass
    other = run.model_copy(update={"groups_per_batch": run.groups_per_batch + 1})
    with pytest.raises(UnavailableError, match="was begun with run.groups_per_batch = 32"):
        await take_lease(redis, other, 5.0).__aenter__()
