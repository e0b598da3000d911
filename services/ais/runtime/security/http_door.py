"""The door of an HTTP server: an ASGI application in front of another."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ais.runtime.security.door import HEADER, Door
from ais.runtime.security.refusals import Refusal
from ais.runtime.security.roles import Allowed, may_request

Rule = Callable[[str, str], Allowed]
"""Who may make a request, by method and path."""
KNOWN = "ais.known"
"""Whether the caller has a valid token, in the scope of a request that is open to everybody."""


class HttpDoor:
    """Answers 401 or 403 in the place of the application, without reading a body."""

    def __init__(self, app: ASGIApp, door: Door, rule: Rule = may_request) -> None:
        self._app = app
        self._door = door
        self._rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            header = Headers(scope=scope).get(HEADER)
            if refusal := self._door.refusal(header, self._rule(scope["method"], scope["path"])):
                await _refused(refusal)(scope, receive, send)
                return
            scope[KNOWN] = self._door.knows(header)
        await self._app(scope, receive, send)


def _refused(refusal: Refusal) -> JSONResponse:
    status = 403 if refusal is Refusal.WRONG_ROLE else 401
    # What the body may hold is not read: the connection ends.
    headers = {"Connection": "close"} | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
    return JSONResponse({"detail": refusal.told}, status, headers)
