"""A TLS listener in front of a server, as stunnel or a load balancer is: Valkey's package has no TLS of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def behind_tls(context: ssl.SSLContext, port: int) -> AsyncIterator[int]:
    """Its port."""
    connections: set[asyncio.StreamWriter] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        connections.update((writer, back))
        await asyncio.gather(_pump(reader, back), _pump(there, writer))
        connections.difference_update((writer, back))

    async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as listener:
        try:
            yield int(listener.sockets[0].getsockname()[1])
        finally:
            for writer in connections:
                writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()
