"""Redis by mutual TLS: what our client does at a server that asks for certificates, and at one that is none of ours."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ais.issuing.authority import Authority, Issued, Use
from ais.runtime.network.redis import RedisUnreachableError, connect
from ais.runtime.network.redis_url import RedisUrl
from ais.runtime.security.certificates import AUTHORITY, CERTIFICATE, KEY, Certificates
from ais.runtime.security.refusals import Refusal
from ais.runtime.settings import RedisSettings
from benchmarks.support.forwarder import behind_tls
from tests.support.access import refused_callers
from tests.support.access.deployment import certificates, expired, secrets, valid, written
from tests.support.valkey_process import ValkeyProcess

QUICK_SECONDS = 10.0
"""A refusal takes milliseconds, where the other side says so; machines that run tests are busy."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    with ValkeyProcess(tmp_path_factory.mktemp("valkey")) as server:
        yield server


def settings(port: int, own: Path | None, scheme: str = "rediss", operation_seconds: float = 5.0) -> RedisSettings:
    """One attempt to connect, or more in a second. `operation_seconds`: of silence, so that a busy machine has time."""
    quick = {"connect_timeout_seconds": 1.0, "operation_timeout_seconds": operation_seconds}
    return RedisSettings.model_validate({"url": f"{scheme}://127.0.0.1:{port}/0", "certificates": own, **quick})


async def answer(told: RedisSettings) -> bytes | None:
    client = await connect(told)
    try:
        await client.set("kept", "here")
        return await client.get("kept")
    finally:
        await client.aclose()


async def test_a_service_uses_a_server_that_asks_for_its_certificate(server: ValkeyProcess) -> None:
    async with behind_tls(certificates("redis").server(), server.port) as port:
        assert await answer(settings(port, secrets() / "collector")) == b"here"


@pytest.mark.parametrize("client", ["expired", "another authority"])
async def test_a_client_with_another_certificate_gets_nothing(
    server: ValkeyProcess, client: str, tmp_path: Path
) -> None:
    other = Authority.new()
    issued = {"expired": expired("collector"), "another authority": other.issue("collector", *Use)}[client]
    before, begun = refused_callers(), time.monotonic()
    async with behind_tls(certificates("redis").server(), server.port) as port:
        with pytest.raises(RedisUnreachableError):
            await answer(settings(port, written(tmp_path, issued)))
    assert time.monotonic() - begun < QUICK_SECONDS
    assert refused_callers()[Refusal.WRONG_CERTIFICATE] > before[Refusal.WRONG_CERTIFICATE]


@pytest.mark.parametrize("client", ["expired", "another authority", "none"])
async def test_a_client_whose_certificate_is_refused_is_told_that_it_is_his_own(client: str, tmp_path: Path) -> None:
    """By OpenSSL's alert, as Redis sends it; asyncio's servers end the connection without one."""
    issued = {"expired": expired("collector"), "another authority": Authority.new().issue("collector", *Use)}
    own = None if client == "none" else written(tmp_path, issued[client])
    with refusing_server() as port:
        told = settings(port, own)
        if own is None:
            url = f"{told.url.get_secret_value()}?ssl_ca_certs={secrets() / 'redis' / AUTHORITY}&ssl_check_hostname=no"
            told = told.model_copy(update={"url": RedisUrl(url)})
        with pytest.raises(RedisUnreachableError, match=f"certificate in {own}|set redis.certificates") as refused:
            await answer(told)
    assert "this is the server's TLS port" not in str(refused.value)


def refusing_server() -> AbstractContextManager[int]:
    """A TLS listener that asks for certificates by blocking calls, and never answers; its port."""
    place = secrets() / "redis"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(place / AUTHORITY))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(place / CERTIFICATE, place / KEY)

    def refuse(connection: socket.socket) -> None:
        connection.settimeout(5.0)
        with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as caller:
            with contextlib.suppress(OSError):
                caller.do_handshake()
            with contextlib.suppress(OSError):
                drain(caller)

    return listening(refuse)


def resetting_server() -> AbstractContextManager[int]:
    """A listener that resets each connection at its first bytes; its port."""

    def reset(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5.0)
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return listening(reset)


@contextmanager
def listening(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                handle(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10.0)


def drain(caller: ssl.SSLSocket) -> None:
    """Read until the caller hangs up: a close with bytes unread would reset the connection, and lose the alert."""
    caller.shutdown(socket.SHUT_WR)
    while caller.recv(4096):
        pass


async def test_an_end_without_an_alert_names_the_certificate_that_may_be_missing() -> None:
    with resetting_server() as port:
        told = settings(port, None)
        url = f"{told.url.get_secret_value()}?ssl_ca_certs={secrets() / 'redis' / AUTHORITY}&ssl_check_hostname=no"
        with pytest.raises(RedisUnreachableError, match=r"TLS port.*set redis\.certificates"):
            await answer(told.model_copy(update={"url": RedisUrl(url)}))


async def test_a_plain_client_gets_nothing(server: ValkeyProcess) -> None:
    begun = time.monotonic()
    async with behind_tls(certificates("redis").server(), server.port) as port:
        with pytest.raises(RedisUnreachableError):
            await answer(settings(port, None, scheme="redis"))
    assert time.monotonic() - begun < QUICK_SECONDS


@pytest.mark.parametrize("shown", ["expired", "another authority", "another service"])
async def test_no_service_uses_a_server_that_it_cannot_trust(server: ValkeyProcess, shown: str, tmp_path: Path) -> None:
    issued: Issued = {
        "expired": expired("redis"),
        "another authority": valid("redis", signer=Authority.new()),
        "another service": valid("collector"),
    }[shown]
    begun = time.monotonic()
    async with behind_tls(Certificates(written(tmp_path, issued)).server(), server.port) as port:
        with pytest.raises(RedisUnreachableError, match=r"CERTIFICATE_VERIFY_FAILED.*redis\.certificates"):
            await answer(settings(port, secrets() / "collector"))
    assert time.monotonic() - begun < QUICK_SECONDS


async def test_a_service_with_certificates_uses_no_server_without_tls(server: ValkeyProcess) -> None:
    with pytest.raises(RedisUnreachableError, match="TLS port"):
        await answer(settings(server.port, secrets() / "collector", operation_seconds=0.5))


async def test_a_new_certificate_counts_at_the_next_connection(server: ValkeyProcess, tmp_path: Path) -> None:
    own = written(tmp_path, valid("collector"))
    async with behind_tls(certificates("redis").server(), server.port) as port:
        client = await connect(settings(port, own))
        try:
            for issued, served in ((expired("collector"), False), (valid("collector"), True)):
                (own / KEY).write_text(issued.key)
                (own / CERTIFICATE).write_text(issued.certificate)
                await client.connection_pool.disconnect()
                assert (await _answers(client)) == served
        finally:
            await client.aclose()


async def _answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except RedisError:
        return False


@pytest.mark.parametrize("url", ["redis://h", "unix:///socket", "rediss://h?ssl_ca_certs=x", ""])
def test_certificates_are_refused_where_they_would_not_be_used(url: str) -> None:
    with pytest.raises(ValidationError, match="expected url to be rediss://"):
        RedisSettings.model_validate({"url": url, "certificates": "here"})
