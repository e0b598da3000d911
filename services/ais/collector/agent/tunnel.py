"""A way to a service that speaks mutual TLS, for programs of this machine that do not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ais.runtime.tasks import end_tasks

PIECE_BYTES = 1 << 16


@asynccontextmanager
async def tunnel(host: str, port: int, context: ssl.SSLContext, name: str) -> AsyncIterator[str]:
    """An address of this machine, http://127.0.0.1:PORT, that leads to the service `name` there while the context is
    open. A connection that cannot be made there is closed here."""
    open_ones: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        try:
            with suppress(OSError):  # ssl.SSLError too
                there = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
                await _both_ways((reader, writer), there)
        finally:
            writer.close()
            open_ones.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await end_tasks(*open_ones)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _both_ways(here: Streams, there: Streams) -> None:
    """Returns when either end has closed, which ends the other."""
    ways = [asyncio.create_task(_pass_on(one[0], other[1])) for one, other in ((here, there), (there, here))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(*ways)
        there[1].close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
