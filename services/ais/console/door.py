"""Who may look: whoever opened the address that the console printed. And what a browser may do with the answer.

The address has a token, which lives as long as the console. The first request with it gets a cookie and is sent to the
address without it, so the token stays in no history and no referrer.
"""

from __future__ import annotations

import hmac
import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "token"
"""Name of the parameter in the address."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_REFUSAL = "Open the address that `ais console` has printed: it has the token that this page asks for.\n"


class ConsoleDoor:
    """Answers 401 in the place of the application to whoever has neither token nor cookie."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token
        self._cookie = f"ais-console-{secrets.token_hex(4)}"  # a browser keeps one jar for all ports of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(Request(scope)) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """None: the application may answer."""
        if self._is_token(request.cookies.get(self._cookie)):
            return None
        if not self._is_token(request.query_params.get(TOKEN)):
            return PlainTextResponse(_REFUSAL, 401)
        welcome = RedirectResponse(request.url.path, 303)
        welcome.set_cookie(self._cookie, self._token, httponly=True, samesite="lax", path="/")
        return welcome

    def _is_token(self, presented: str | None) -> bool:
        return hmac.compare_digest((presented or "").encode(), self._token.encode())
