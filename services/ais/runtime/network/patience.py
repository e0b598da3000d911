"""Calls to Redis that are repeated while it is away, because it may come back."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar, TypeVar

from redis.exceptions import RedisError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    stop_never,
    wait_random_exponential,
)

from ais.runtime.metrics.meter import Meter
from ais.runtime.network.redis import RedisUnreachableError, is_away

LONGEST_WAIT_SECONDS = 5.0
"""The wait between two attempts doubles, with jitter, up to this."""

METER = Meter(None)
RETRIES = METER.counter(  # every service's registry has it: ais.runtime.metrics.registry
    "ais_redis_retries",
    "Calls to Redis that are tried again because it was away, by the kind of error.",
    "Redis is down, slow or full: look at its log, its disk and its memory. Nothing is lost meanwhile.",
    {"error": ("ConnectionError", "TimeoutError")},
)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


async def persist(call: Callable[[], Awaitable[Result]], patience_seconds: float | None) -> Result:
    """Awaits `call()`, again with back-off while Redis is away. Raises RedisUnreachableError when patience ends.

    The call must be safe to repeat: the first attempt may have worked and only its answer been lost. With None it waits
    for ever, for callers holding data that must not be lost. Errors that waiting does not cure are raised at once.
    """
    waiting = _Waiting()
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(is_away),
            stop=stop_never if patience_seconds is None else stop_after_delay(patience_seconds),
            wait=wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT_SECONDS),
            before_sleep=waiting.goes_on,
            reraise=True,
        ):
            with attempt:
                result = await call()
                waiting.answered()
                return result
    except RedisError as error:
        if not is_away(error):
            raise
        raise RedisUnreachableError(f"Redis has been away for {patience_seconds:g} s: {error}") from error
    finally:
        waiting.end()
    raise AssertionError("unreachable: tenacity returns or raises")


class _Waiting:
    """A call that may have to wait. An outage is logged once for all waiting calls of the process, not by each."""

    _calls: ClassVar[int] = 0
    _since: ClassVar[float] = 0.0
    _told: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self._waits = False

    def goes_on(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        RETRIES.labels(type(error).__name__).inc()
        now = time.monotonic()
        if not self._waits and not _Waiting._calls:
            _Waiting._since, _Waiting._told = now, -math.inf
        _Waiting._calls += not self._waits
        self._waits = True
        if now - _Waiting._told >= LONGEST_WAIT_SECONDS:
            _Waiting._told = now
            logger.warning("Redis does not answer, trying again: %s", error)

    def answered(self) -> None:
        self.end()
        if self._told_and_over():
            _Waiting._told = 0.0
            seconds = round(time.monotonic() - _Waiting._since, 1)
            logger.info("Redis answers again", extra={"away_seconds": seconds})

    def end(self) -> None:
        _Waiting._calls -= self._waits
        self._waits = False

    @staticmethod
    def _told_and_over() -> bool:
        return bool(_Waiting._told) and not _Waiting._calls
