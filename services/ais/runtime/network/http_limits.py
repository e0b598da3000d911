"""How much a peer may ask of a service's HTTP side. What exceeds a limit is refused before memory is taken for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import h11
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from uvicorn.protocols.http.h11_impl import H11Protocol

from ais.runtime.security.http_door import KNOWN

LONGEST_HEAD_BYTES = 16 * 1024
"""Request line and headers. 400, and the connection is closed."""
LARGEST_BODY_BYTES = 4 * 1024 * 1024
"""A body that is read as a whole: 413. Bodies that a route streams have limits of their own."""
STALLED_SECONDS = 30.0
"""A body that is read as a whole and is not complete by then is given up: 408."""
MOST_CONNECTIONS = 256
"""Connections at once, of all callers. The next one takes the place of one on which nothing is asked: of callers
without a token first, and of those the one that has waited longest. Where none waits it is closed at once."""
UNREAD_SECONDS = 5.0
"""How long the rest of a body may come that nobody reads any more, because its request was answered. Then the
connection is closed. Clients that send to the end before they read get the answer if that takes no longer."""
HEAD_SECONDS = 10.0
"""A connection that waits for this long for a request's head is closed, after twice as long at the latest."""


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, whose own limits begin only with the first request of a connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waits_since = self.loop.time()
        if len(self.connections) > MOST_CONNECTIONS and not self._has_place():
            transport.close()
            return
        self._looked_at: object = self
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._waits_since = self.loop.time()
        if self._has_unread():
            self.loop.call_later(UNREAD_SECONDS, self._close_unread, self.cycle)

    def _has_unread(self) -> bool:
        """Whether a request was answered whose body still comes."""
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _close_unread(self, cycle: object) -> None:
        if self.cycle is cycle and self._has_unread():
            self.transport.close()

    def _has_place(self) -> bool:
        """Whether this connection is not one too many; another that waits is closed for it."""
        # uvicorn's type names all its protocols; a server has one.
        others = [one for one in self.connections if isinstance(one, BoundedProtocol) and one is not self]
        open_ones = [one for one in others if not one.transport.is_closing()]
        if len(open_ones) < MOST_CONNECTIONS:
            return True
        waiting = [one for one in open_ones if one._waits()]
        if not waiting:
            return False
        min(waiting, key=lambda one: (one._is_known(), one._waits_since)).transport.close()
        return True

    def _waits(self) -> bool:
        """Nothing is being answered on it."""
        return self.cycle is None or self.cycle.response_complete

    def _is_known(self) -> bool:
        """Whether its last request came with a token."""
        return bool(self.scope and self.scope.get(KNOWN))

    def _look(self) -> None:
        """Closes a connection on which no request came since the last look, and none is being answered."""
        if self.transport.is_closing():
            return
        waiting = self._waits()
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
