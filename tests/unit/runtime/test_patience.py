"""Patience with a Redis that went away."""

from __future__ import annotations

import asyncio
import logging

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ais.runtime.network.patience import RETRIES, persist
from ais.runtime.network.redis import RedisUnreachableError


class Flaky:
    """Fails as often as told, then answers 7."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    async def __call__(self) -> int:
        if self._errors:
            raise self._errors.pop(0)
        return 7


async def test_a_call_is_repeated_until_redis_is_back() -> None:
    assert await persist(Flaky(RedisConnectionError("gone")), patience_seconds=10) == 7


@pytest.mark.parametrize(
    "error",
    [
        RedisTimeoutError("Timeout reading from socket"),
        BusyLoadingError("Redis is loading the dataset in memory"),
        ReadOnlyError("You can't write against a read only replica."),
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
    ],
    ids=["silent", "loading", "read-only", "full", "no disk"],
)
async def test_a_server_that_cannot_answer_now_is_waited_for_without_end(error: Exception) -> None:
    assert await persist(Flaky(error), patience_seconds=None) == 7


async def test_refused_credentials_are_not_waited_for() -> None:
    with pytest.raises(AuthenticationError):
        await persist(Flaky(AuthenticationError("invalid username-password pair")), patience_seconds=None)


async def test_an_outage_is_told_at_its_beginning_and_its_end_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = RETRIES.labels("ConnectionError")._value.get()
    await persist(Flaky(RedisConnectionError("gone")), patience_seconds=10)
    assert [record.message for record in caplog.records] == [
        "Redis does not answer, trying again: gone",
        "Redis answers again",
    ]
    assert RETRIES.labels("ConnectionError")._value.get() == before + 1


async def test_patience_ends_with_a_clear_error() -> None:
    with pytest.raises(RedisUnreachableError, match="Redis has been away for 0 s: gone"):
        await persist(Flaky(RedisConnectionError("gone")), patience_seconds=0)


async def test_an_answer_that_is_an_error_is_not_repeated() -> None:
    with pytest.raises(ResponseError):
        await persist(Flaky(ResponseError("WRONGTYPE")), patience_seconds=10)


async def test_many_calls_that_wait_tell_one_outage_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await asyncio.gather(*(persist(Flaky(*[RedisConnectionError("gone")] * 3), None) for _ in range(20)))
    assert [record.message for record in caplog.records] == [
        "Redis does not answer, trying again: gone",
        "Redis answers again",
    ]
