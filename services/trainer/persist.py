"""Redis may go away in mid-run and come back: calls that matter are repeated until then."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_random_exponential

from services.runtime.redis import RedisUnreachableError

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


async def persist(call: Callable[[], Awaitable[Result]], patience_seconds: float) -> Result:
    """Awaits `call()`, again with back-off while Redis is away. Raises RedisUnreachableError when patience ends.

    The call must be safe to repeat: the first attempt may have worked and only its answer been lost.
    """
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((RedisConnectionError, RedisTimeoutError)),
            stop=stop_after_delay(patience_seconds),
            wait=wait_random_exponential(multiplier=0.2, max=5.0),
            before_sleep=_tell,
            reraise=True,
        ):
            with attempt:
                return await call()
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise RedisUnreachableError(f"Redis has been away for {patience_seconds:g} s: {error}") from error
    raise AssertionError("unreachable: tenacity returns or raises")


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.warning("Redis does not answer, trying again: %s", error)
