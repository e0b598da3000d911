"""What the HTTP side of a service takes from its peers, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import Request
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from ais.runtime.metrics.registry import service_registry
from ais.runtime.network import http_limits
from ais.runtime.network.http import application, serve
from ais.runtime.security.keyring import Keyring
from ais.runtime.security.roles import Role
from tests.support.access import bearer, tokens


class Named(BaseModel):
    name: str


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A service with a route that reads a body as a whole, and one that streams it."""
    app = application("test", CollectorRegistry(), lambda: None)

    @app.put("/whole")
    async def whole(named: Named) -> int:
        return len(named.name)

    @app.put("/streamed")
    async def streamed(request: Request) -> int:
        return sum([len(piece) async for piece in request.stream()])

    async with serve(app, "127.0.0.1", 0) as listening:
        yield listening


async def answer(port: int, *pieces: bytes) -> bytes:
    """All that comes back for raw bytes, until the service closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 5_000_000,
        b"GET /healthz HTTP/1.1\r\n" + b"X-Many: a\r\n" * 200_000,
        b"GET /" + b"a" * 5_000_000,
        b"a" * 5_000_000,
    ],
    ids=["one header", "many headers", "path", "no HTTP"],
)
async def test_a_head_that_is_too_long_closes_the_connection(head: bytes, port: int) -> None:
    got = await answer(port, *(head[begin : begin + 65_536] for begin in range(0, len(head), 65_536)))
    assert got == b"reset" or b"400 Bad Request" in got.partition(b"\r\n")[0]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_a_body_read_as_a_whole_is_bounded_and_a_streamed_one_is_not(port: int) -> None:
    large = b'"' + b"a" * http_limits.LARGEST_BODY_BYTES + b'"'

    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(large), 65_536):
            yield large[begin : begin + 65_536]

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        assert (await client.put("/whole", json={"name": "abc"})).json() == 3
        assert (await client.put("/whole", json={"name": "a" * 4_000_000})).json() == 4_000_000
        for body in (large, chunks()):
            refused = await client.put("/whole", content=body)
            assert refused.status_code == 413
            assert "expected at most" in refused.json()["detail"]
        assert (await client.put("/streamed", content=large)).json() == len(large)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
    ],
    ids=["nothing", "half a line", "half a head", "half a second request"],
)
async def test_a_connection_that_waits_for_a_head_is_closed(
    sent: bytes, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 0.2)
    await answer(port, sent)


async def test_a_body_that_does_not_come_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "STALLED_SECONDS", 0.2)
    head = b"PUT /whole HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    assert b"408" in await asyncio.wait_for(reader.readline(), 20)
    writer.close()


async def test_a_request_that_takes_long_is_not_cut_by_the_limit_on_heads(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 0.05)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(10):
            await asyncio.sleep(0.05)
            yield b"a"

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        assert (await client.put("/streamed", content=slowly())).json() == 10


async def test_a_connection_beyond_the_limit_takes_the_place_of_the_one_that_has_waited_longest(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "MOST_CONNECTIONS", 3)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        for _ in range(2):
            assert (await client.get("/healthz")).status_code == 200
        assert await asyncio.wait_for(held[0][0].read(), 20) == b""
        for _reader, writer in held[1:]:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in await asyncio.wait_for(_reader.readline(), 20)
    for _reader, writer in held:
        writer.close()


async def test_a_caller_with_a_token_keeps_his_place_before_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "MOST_CONNECTIONS", 2)
    app = application("test", service_registry("test"), lambda: None)
    head = (
        f"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer(Role.METRICS)['authorization']}\r\n\r\n".encode()
    )
    async with serve(app, "127.0.0.1", 0, Keyring(tokens()).door(*Role)) as port:
        known, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        assert b"200" in await asyncio.wait_for(known.readline(), 20)
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        for reader, _ in strangers[:4]:
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.write(head)
        async with asyncio.timeout(20):
            while not (await known.readline()).startswith(b"HTTP/1.1 200"):
                pass
        for _, one in [*strangers, (known, writer)]:
            one.close()


async def test_a_connection_is_closed_where_all_others_are_being_answered(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "MOST_CONNECTIONS", 2)
    head = b"PUT /streamed HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    busy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for reader, writer in busy:
        writer.write(head)
        assert b"100" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert await answer(port) == b""
    for reader, writer in busy:
        writer.write(b"b")
        assert b"200" in await asyncio.wait_for(reader.readline(), 20)
        writer.close()


async def test_the_rest_of_a_body_that_nobody_reads_ends_the_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "UNREAD_SECONDS", 0.1)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n")

    async def send_for_ever() -> None:
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_for_ever(), 5)  # less than a connection may be idle
    writer.close()
