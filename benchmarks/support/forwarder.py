"""A listener in front of a server, with TLS or without: Valkey's package has no TLS of its own.

python -m benchmarks.support.forwarder PORT [CERTIFICATES]    # prints its port, and runs until its input ends
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ais.runtime.security.certificates import Certificates


@asynccontextmanager
async def behind_tls(context: ssl.SSLContext | None, port: int) -> AsyncIterator[int]:
    """The port of the listener; what comes is forwarded to `port`. None: it comes as it is."""
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
        while piece := await reader.read(1 << 18):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def _main(port: int, certificates: Path | None) -> None:
    async with behind_tls(None if certificates is None else Certificates(certificates).server(), port) as own:
        print(own, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
