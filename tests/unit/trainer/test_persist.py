"""Patience with a Redis that went away."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from services.runtime.redis import RedisUnreachableError
from services.trainer.persist import persist


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


async def test_patience_ends_with_a_clear_error() -> None:
    with pytest.raises(RedisUnreachableError, match="Redis has been away for 0 s: gone"):
        await persist(Flaky(RedisConnectionError("gone")), patience_seconds=0)


async def test_an_answer_that_is_an_error_is_not_repeated() -> None:
    with pytest.raises(ResponseError):
        await persist(Flaky(ResponseError("WRONGTYPE")), patience_seconds=10)
