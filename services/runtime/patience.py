"""Redis may go away in mid-run and come back: calls that matter are repeated until then."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import Counter
from redis.exceptions import RedisError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay, stop_never
from tenacity import wait_random_exponential as random_exponential

from services.runtime.redis import RedisUnreachableError, is_away

LONGEST_WAIT_SECONDS = 5.0
"""Waits between two attempts double, with jitter, up to this."""

RETRIES = Counter(
    "ais_redis_retries",
    "Calls to Redis that are tried again because it was away, by the kind of error.",
    ["error"],
    registry=None,  # every service's registry has it: services.runtime.metrics
)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


async def persist(call: Callable[[], Awaitable[Result]], patience_seconds: float | None) -> Result:
    """Awaits `call()`, again with back-off while Redis is away. Raises RedisUnreachableError when patience ends.

    The call must be safe to repeat: the first attempt may have worked and only its answer been lost. None: patience
    without end, for who has something that must not be lost. Errors that waiting does not cure are raised at once.
    """
    begun = time.monotonic()
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(is_away),
            stop=stop_never if patience_seconds is None else stop_after_delay(patience_seconds),
            wait=random_exponential(multiplier=0.2, max=LONGEST_WAIT_SECONDS),
            before_sleep=_tell,
            reraise=True,
        ):
            with attempt:
                result = await call()
            if not attempt.retry_state.outcome.failed:  # type: ignore[union-attr]  # it has one after the block
                if attempt.retry_state.attempt_number > 1:
                    logger.info("Redis answers again", extra={"away_seconds": round(time.monotonic() - begun, 1)})
                return result
    except RedisError as error:
        if not is_away(error):
            raise
        raise RedisUnreachableError(f"Redis has been away for {patience_seconds:g} s: {error}") from error
    raise AssertionError("unreachable: tenacity returns or raises")


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    RETRIES.labels(type(error).__name__).inc()
    logger.warning("Redis does not answer, trying again: %s", error)
