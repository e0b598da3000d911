"""What a company's HTTP proxy looks like to a client: a listener that a test asks who came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
"""Where clients look for a proxy; some read the names in capitals too."""


class ForwardProxy:
    """Refuses every request, and keeps its first line."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readline())
        self.asked.set()
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    def environment(self) -> dict[str, str]:
        """Sends every client that obeys proxies here, even for loopback."""
        names = (*VARIABLES, *(name.upper() for name in VARIABLES))
        return dict.fromkeys(names, self.url) | dict.fromkeys(("no_proxy", "NO_PROXY", "no_grpc_proxy"), "")


@asynccontextmanager
async def forward_proxy() -> AsyncIterator[ForwardProxy]:
    proxy = ForwardProxy()
    server = await asyncio.start_server(proxy.answer, "127.0.0.1", 0)
    async with server:
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
