"""Where programs reach the policy: an OpenAI-compatible API with a base URL and a key for each episode.

    GET  /episodes/ID/v1/models
    POST /episodes/ID/v1/chat/completions
    POST /episodes/ID/v1/end                  {"reward": 1.0}: the episode is over

Only this machine reaches it. Whoever has no key of a living episode is refused before anything of the call is read.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHttpError

from ais.collector.judging.harness.wire import MODEL, CallRefusedError, Session, completion_in, end_in
from ais.runtime.network.http import serve
from ais.runtime.network.http_limits import BoundedRoute

HOST = "127.0.0.1"
ENDED_KEPT = 4096
"""Episodes that are over and are still told from those that never were."""


@dataclass
class _Place:
    key: str
    session: Session | None
    """None: the episode is over."""


class Endpoint:
    """Knows who answers the calls of which episode."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, _Place] = OrderedDict()

    @contextmanager
    def episode(self, session: Session) -> Iterator[tuple[str, str]]:
        """The path of the base URL and the key by which `session` is reached while the context is open."""
        name, place = secrets.token_hex(8), _Place(secrets.token_urlsafe(24), session)
        self._places[name] = place
        try:
            yield f"/episodes/{name}/v1", place.key
        finally:
            place.session = None
            self._places.move_to_end(name)
            ended = [name for name, place in self._places.items() if place.session is None]
            for name in ended[:-ENDED_KEPT]:
                del self._places[name]

    def session(self, name: str, header: str) -> Session:
        """Who answers a call. Raises CallRefusedError."""
        place = self._places.get(name)
        key = header.removeprefix("Bearer ").encode()
        if place is None or not hmac.compare_digest(key, place.key.encode()):
            raise CallRefusedError(401, "this is not the key of this episode", "invalid_api_key")
        if place.session is None:
            raise over()
        return place.session


def over() -> CallRefusedError:
    """What a call after the end is told."""
    return CallRefusedError(400, "the episode is over", "episode_over")


def application(endpoint: Endpoint) -> FastAPI:
    """The API."""
    app = FastAPI(title="AIS episodes", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.route_class = BoundedRoute
    base = "/episodes/{name}/v1"

    @app.exception_handler(CallRefusedError)
    async def refused(_: Request, error: CallRefusedError) -> JSONResponse:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(AnyHttpError)
    async def no_such_thing(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(CallRefusedError(error.status_code, str(error.detail)).body(), error.status_code)

    @app.get(f"{base}/models")
    async def models(name: str, request: Request) -> JSONResponse:
        endpoint.session(name, request.headers.get("authorization", ""))
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "ais"}
        return JSONResponse({"object": "list", "data": [model]})

    @app.post(f"{base}/chat/completions")
    async def completions(name: str, request: Request) -> JSONResponse:
        session = endpoint.session(name, request.headers.get("authorization", ""))
        completed = await session.complete(completion_in(await request.body()))
        return JSONResponse(completed.body())

    @app.post(f"{base}/end")
    async def end(name: str, request: Request) -> JSONResponse:
        session = endpoint.session(name, request.headers.get("authorization", ""))
        session.end(end_in(await request.body()).reward)
        return JSONResponse({"ended": True})

    return app


@asynccontextmanager
async def open_endpoint() -> AsyncIterator[tuple[Endpoint, str]]:
    """An endpoint that listens while the context is open, and its address."""
    endpoint = Endpoint()
    async with serve(application(endpoint), HOST, 0, serves="episodes") as port:
        yield endpoint, f"http://{HOST}:{port}"
