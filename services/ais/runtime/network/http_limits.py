"""How much a peer may ask of a service's HTTP side. What exceeds a limit is refused before memory is taken for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from uvicorn.protocols.http.h11_impl import H11Protocol

LONGEST_HEAD_BYTES = 16 * 1024
"""Request line and headers. 400, and the connection is closed."""
LARGEST_BODY_BYTES = 4 * 1024 * 1024
"""A body that is read as a whole: 413. Bodies that a route streams have limits of their own."""
STALLED_SECONDS = 30.0
"""A body that is read as a whole and is not complete by then is given up: 408."""
MOST_CONNECTIONS = 256
"""Connections at once, of all callers. The next one is closed at once."""
HEAD_SECONDS = 10.0
"""A connection that waits for this long for a request's head is closed, after twice as long at the latest."""


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, whose own limits begin only with the first request of a connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.close()
            return
        self._looked_at: object = self
        self._look()

    def _look(self) -> None:
        """Closes a connection on which no request came since the last look, and none is being answered."""
        if self.transport.is_closing():
            return
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._looked_at is self.cycle:
            self.transport.close()
            return
        self._looked_at = self.cycle if waiting else self
        self.loop.call_later(HEAD_SECONDS, self._look)


class BoundedRequest(Request):
    """A request whose body, where it is read as a whole, is read up to the limit."""

    async def body(self) -> bytes:
        """Raises HTTPException 413 for a body that is too large, 408 for one that does not come."""
        if hasattr(self, "_body"):
            return self._body
        announced = self.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > LARGEST_BODY_BYTES:
            raise _too_large(announced)
        body = bytearray()
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                async for piece in self.stream():
                    body += piece
                    if len(body) > LARGEST_BODY_BYTES:
                        raise _too_large("more")
        except TimeoutError:
            raise HTTPException(
                408, f"body: expected all of it within {STALLED_SECONDS:g} s, got {len(body)} bytes"
            ) from None
        self._body = bytes(body)
        return self._body


class BoundedRoute(APIRoute):
    """A route that reads its body by `BoundedRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handler(BoundedRequest(request.scope, request.receive))

        return bounded


def _too_large(got: str) -> HTTPException:
    return HTTPException(413, f"body: expected at most {LARGEST_BODY_BYTES} bytes, got {got[:20]}")
