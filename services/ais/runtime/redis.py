"""The Redis client every service uses: deadlines on every call, retries with back-off, a clear error at start."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from ais.runtime.settings import RedisSettings

CALL_RETRIES = 3
"""Retries of one call after a lost connection or a missed deadline. Every call of ours may be repeated safely."""
READ_BYTES = 1 << 20
"""Bytes of an answer taken from the socket at once: a batch of groups is megabytes, the library's default 32 kB."""
LONGEST_BLOCK_SECONDS = 1.0
"""No caller asks the server to hold a blocking read for longer than this."""

_AWAY_CODES = ("MISCONF", "NOREPLICAS")
"""First words of answers that mean `not now` and for which the library has no class."""


class RedisUnreachableError(RuntimeError):
    """No Redis answered in time at start."""


async def connect(settings: RedisSettings) -> Redis:
    """A connected client. Raises RedisUnreachableError when no server answers within the settings' time."""
    if not settings.url:
        raise RedisUnreachableError(
            "redis.url is not set. Set it to a Redis or Valkey server, such as redis://127.0.0.1:6379/0; `ais run` "
            "starts one of its own."
        )
    client = Redis.from_url(
        settings.url,
        protocol=2,
        socket_connect_timeout=settings.operation_timeout_seconds,
        socket_timeout=settings.operation_timeout_seconds + LONGEST_BLOCK_SECONDS,
        socket_keepalive=True,
        socket_read_size=READ_BYTES,
        health_check_interval=15,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=2.0), CALL_RETRIES),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(is_away),
            stop=stop_after_delay(settings.connect_timeout_seconds),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            reraise=True,
        ):
            with attempt:
                await client.ping()
    except RedisError as error:
        await client.aclose()
        if not is_away(error):
            raise RedisUnreachableError(
                f"Redis at {_without_password(settings.url)} refuses this client: {error}. Check redis.url, its user "
                "and its password."
            ) from error
        raise RedisUnreachableError(
            f"no Redis answers at {_without_password(settings.url)} after {settings.connect_timeout_seconds:g} s "
            f"({error}). Start one, or set redis.url to one that runs."
        ) from error
    return client


def is_away(error: BaseException) -> bool:
    """Whether the same call may succeed later, with nobody changing the caller or its settings.

    Waited for: no connection, a missed deadline, a server that loads its data (LOADING), follows another one
    (READONLY, MASTERDOWN, CLUSTERDOWN), lacks followers (NOREPLICAS), cannot write to its disk (MISCONF), or is full
    (OOM: acknowledged groups make room). All else is an error of who called, refused credentials among them.
    """
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return False  # the library counts them as lost connections
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, ReadOnlyError, OutOfMemoryError)):
        return True
    if isinstance(error, (ClusterDownError, TryAgainError)):
        return True
    return isinstance(error, ResponseError) and any(code in str(error) for code in _AWAY_CODES)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
