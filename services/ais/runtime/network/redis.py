"""The Redis client every service uses: deadlines on every call, retries with back-off, a clear error at start."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from ais.runtime.network.redis_url import RedisServer
from ais.runtime.security.certificates import Certificates
from ais.runtime.security.tokens import TokenFile
from ais.runtime.settings import RedisSettings

CALL_RETRIES = 3
"""Retries of one call after a lost connection or a missed deadline. Every call of ours may be repeated safely."""
READ_BYTES = 1 << 20
"""Bytes of an answer taken from the socket at once: a batch of groups is megabytes, the library's default 32 kB."""
LONGEST_BLOCK_SECONDS = 1.0
"""No caller asks the server to hold a blocking read for longer than this."""
RIGHTS = "+@connection +@read +@write +@transaction +@scripting -@dangerous +info"
"""What an ACL must let the user do, on the keys of its runs."""

SERVER = "redis"
"""The name in the certificate of the server."""
SHOWN = 3
"""Forbidden commands that an error names."""

_TLS_ADVICE = (
    "Check that this is the server's TLS port, and that redis.certificates, or ?ssl_ca_certs=FILE, has the authority "
    "of its certificate."
)
_CERTIFICATE_ADVICE = (
    "The server asks for a certificate of ours: set redis.certificates, or ?ssl_certfile=FILE and ssl_keyfile."
)
_AWAY_CODES = ("MISCONF", "NOREPLICAS")
"""First words of answers that mean `not now` and for which the library has no class."""

Command = Sequence[str]


class RedisUnreachableError(RuntimeError):
    """No Redis answered in time at start, or the one that did cannot be used. The message says what to do."""


async def connect(settings: RedisSettings, needs: Sequence[Command] = ()) -> Redis:
    """A connected client of a server that keeps what it is given and lets the user run the commands in `needs`.

    Raises RedisUnreachableError when no server answers within the settings' time, or at once when this one refuses the
    user, evicts keys, is a cluster, or forbids a command. The commands in `needs` are checked, not executed. Raises
    UnavailableError or SettingsError when the file with its password cannot be used.
    """
    if not settings.url:
        raise RedisUnreachableError(
            "redis.url is not set. Set it to a Redis or Valkey server, such as redis://127.0.0.1:6379/0; `ais run` "
            "starts one of its own."
        )
    client = _client(settings)
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(is_away),
            stop=stop_after_delay(settings.connect_timeout_seconds),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            reraise=True,
        ):
            with attempt:
                await client.ping()
                problem = await _unsuitable(client, settings, needs)
    except RedisError as error:
        await client.aclose()
        if is_away(error):
            raise RedisUnreachableError(
                f"no Redis answers at {settings.url} after {settings.connect_timeout_seconds:g} s ({error}). "
                f"{_advice_on_silence(settings, error)}"
            ) from error
        raise RedisUnreachableError(
            f"Redis at {settings.url} refuses this client: {error}. {_advice(error)}"
        ) from error
    if problem:
        await client.aclose()
        raise RedisUnreachableError(f"Redis at {settings.url} cannot be used: {problem}")
    return client


def _client(settings: RedisSettings) -> Redis:
    server = RedisServer.parse(settings.url.get_secret_value())
    # A local socket never hangs half open, and redis-py's health check on one repeats itself without end when it fails.
    remote = {"socket_keepalive": True, "health_check_interval": 15}
    options: dict[str, Any] = {} if server.url.startswith("unix:") else remote
    address = server.url
    if settings.certificates is not None:
        options |= {"connection_class": _TlsConnection, "context": Certificates(settings.certificates).client(SERVER)}
        address = address.replace("rediss:", "redis:", 1)  # else the library's own class, whatever is said here
    if settings.password_file and not server.password:
        options["credential_provider"] = _Credentials(server.username, TokenFile(settings.password_file))
    else:
        options |= {"username": server.username, "password": server.password}
    return Redis.from_url(
        address,
        protocol=2,
        socket_connect_timeout=settings.operation_timeout_seconds,
        socket_timeout=settings.operation_timeout_seconds + LONGEST_BLOCK_SECONDS,
        socket_read_size=READ_BYTES,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=2.0), CALL_RETRIES),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
        **options,
    )


class _TlsConnection(Connection):
    """A connection by a context of ours, where the library makes one of files that it reads once."""

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._context = context

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._context}


class _Credentials(CredentialProvider):
    """User and password of a connection that is being made."""

    def __init__(self, user: str | None, file: TokenFile) -> None:
        self._user = user or "default"
        self._file = file

    def get_credentials(self) -> tuple[str, str]:
        return self._user, self._file.tokens()[0].decode()

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()


async def _unsuitable(client: Redis, settings: RedisSettings, needs: Sequence[Command]) -> str | None:
    """Why a server that answers cannot carry a run, or None."""
    try:
        info = await client.info()
    except NoPermissionError:
        info = {}  # told below, with what else is forbidden
    if info.get("cluster_enabled"):
        return "it is in cluster mode, and one transaction of ours uses several keys. Use a server that is no cluster."
    if refused := await _refused(client, [("INFO",), *needs]):
        user = RedisServer.parse(settings.url.get_secret_value()).username or "default"
        keys = sorted({key for command in needs for key in command if key.startswith("ais:")})
        pattern = f"~{keys[0].rpartition(':')[0]}:*" if keys else "~ais:*"
        shown = "; ".join(refused[:SHOWN]) + (f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else "")
        return f"user {user!r} may not use {shown}. What it needs: ACL SETUSER {user} {pattern} {RIGHTS}"
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory") and policy != "noeviction":
        return (
            f"its maxmemory-policy is {policy}, so when it is full it would drop groups that nobody has trained on. "
            "Set it to noeviction: CONFIG SET maxmemory-policy noeviction"
        )
    return None


async def _refused(client: Redis, commands: Sequence[Command]) -> list[str]:
    """Those that the server forbids or does not know, each with its words. None of them is executed.

    Inside MULTI a server judges each command as it comes and DISCARD forgets them all.
    """
    refused = []
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        for command in (("MULTI",), *commands, ("DISCARD",)):
            await connection.send_command(*command)
            try:
                await connection.read_response()
            except ResponseError as error:
                if is_away(error):
                    raise
                refused.append(f"{' '.join(command[:2])} ({error})")
                if command == ("MULTI",):
                    break
    finally:
        await connection.disconnect()  # also out of a transaction that an error has left open
        await client.connection_pool.release(connection)
    return refused


def is_away(error: BaseException) -> bool:
    """Whether the same call may succeed later, with nobody changing the caller or its settings.

    Waited for: no connection, a missed deadline, a server that loads its data (LOADING), follows another one
    (READONLY, MASTERDOWN, CLUSTERDOWN), lacks followers (NOREPLICAS), cannot write to its disk (MISCONF), or is full
    (OOM: acknowledged groups make room). Anything else is an error of the caller: refused credentials, a certificate
    that is not trusted.
    """
    if any(isinstance(cause, (AuthenticationError, AuthorizationError)) for cause in _causes(error)):
        return False  # the library counts them as lost connections, or wraps them into one
    if _tls_fault(error):
        return False
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, ReadOnlyError, OutOfMemoryError)):
        return True
    if isinstance(error, (ClusterDownError, TryAgainError)):
        return True
    return isinstance(error, ResponseError) and any(code in str(error) for code in _AWAY_CODES)


def _advice(error: RedisError) -> str:
    if _tls_fault(error):
        return _TLS_ADVICE
    return "Check redis.url, its user and its password."


def _advice_on_silence(settings: RedisSettings, error: RedisError) -> str:
    if not settings.url.get_secret_value().startswith("rediss:"):
        return "Start one, or set redis.url to one that runs."
    if not _refuses_our_certificate(error):
        # A server that hangs up at once may reset the connection before its alert is read.
        return _TLS_ADVICE if settings.certificates else f"{_TLS_ADVICE} Or: {_CERTIFICATE_ADVICE}"
    if settings.certificates is None:
        return _CERTIFICATE_ADVICE
    return (
        f"The server does not accept our certificate in {settings.certificates}: it has expired (`ais secrets DIR "
        "--renew 30`), or the server trusts another authority."
    )


def _refuses_our_certificate(error: BaseException) -> bool:
    """Whether the server has ended the handshake by an alert about the certificate that it got, or did not get.

    It may accept the next one, which is read from the files anew. So this is waited for, unlike faults of its own.
    """
    reasons = [cause.reason or "" for cause in _causes(error) if isinstance(cause, ssl.SSLError)]
    return any("ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason) for reason in reasons)


def _tls_fault(error: BaseException) -> bool:
    """Whether the two sides do not agree on TLS: a certificate not trusted, or a server that does not speak it."""
    return any(
        isinstance(cause, ssl.SSLCertVerificationError)
        or (isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"))
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
