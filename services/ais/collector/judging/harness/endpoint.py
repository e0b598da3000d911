"""Where programs reach the policy: an OpenAI-compatible API with a base URL and a key for each episode.

    GET  /episodes/ID/v1/models
    POST /episodes/ID/v1/chat/completions
    POST /episodes/ID/v1/completions
    POST /episodes/ID/v1/end                  {"reward": 1.0}: the episode is over
    POST /v1/episodes                         {"seconds": 30}: an episode for an agent elsewhere, or 204 for none

Only this machine reaches it, or with the last route the network, by a token. Whoever has no key of a living episode is
refused before anything of the call is read.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHttpError

from ais.collector.judging.harness.answers import MODEL
from ais.collector.judging.harness.desk import Desk
from ais.collector.judging.harness.leaving import unless_left
from ais.collector.judging.harness.streaming import streamed
from ais.collector.judging.harness.wire import (
    Asked,
    CallRefusedError,
    Completion,
    End,
    Failed,
    Offered,
    RawCompletion,
    Session,
    Wanted,
    completion_in,
    end_in,
    raw_completion_in,
    wanted_in,
)
from ais.runtime.network.http import serve
from ais.runtime.network.http_limits import BoundedRoute
from ais.runtime.network.openapi import NOT_LET_IN, TOKEN, Responses, describe_bodies
from ais.runtime.security.refusals import Refusal, tell
from ais.runtime.security.roles import EPISODES

HOST = "127.0.0.1"
OFFERS = "/v1/episodes"
"""Path where agents get episodes."""
ENDED_KEPT = 4096
"""Episodes that are over and are still told from those that never were."""
_NO_MORE = (401, 429)
"""Those who are refused so lose their connection: there may be a thousand of them, and others wait."""
_ANSWERS: Responses = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}


def _refusals(*statuses: int) -> Responses:
    return {status: {"model": Failed} for status in statuses}


class Endpoint:
    """Knows who answers the calls of which episode."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._keys: dict[str, str] = {}
        """The keys of the living, and of those that ended last."""

    @contextmanager
    def episode(self, session: Session) -> Iterator[tuple[str, str]]:
        """The path of the base URL and the key by which `session` is reached while the context is open."""
        name = secrets.token_hex(8)
        self._sessions[name], self._keys[name] = session, secrets.token_urlsafe(24)
        try:
            yield f"{EPISODES}{name}/v1", self._keys[name]
        finally:
            del self._sessions[name]
            self._keys[name] = self._keys.pop(name)  # the newest of the ended
            while len(self._keys) > len(self._sessions) + ENDED_KEPT:
                del self._keys[next(one for one in self._keys if one not in self._sessions)]

    def session(self, name: str, header: str) -> Session:
        """Who answers a call. Raises CallRefusedError."""
        key = self._keys.get(name, "")
        if not key or not hmac.compare_digest(header.removeprefix("Bearer ").encode(), key.encode()):
            tell(Refusal.WRONG_TOKEN if header else Refusal.NO_TOKEN)
            raise CallRefusedError(401, "this is not the key of this episode", "invalid_api_key")
        if name not in self._sessions:
            raise over()
        self._sessions[name].heard = time.monotonic()
        return self._sessions[name]


def over() -> CallRefusedError:
    """What a call after the end is told."""
    return CallRefusedError(400, "the episode is over", "episode_over")


@contextmanager
def _told(session: Session) -> Iterator[None]:
    """Keeps why a call is refused: it may be why its program comes to nothing."""
    try:
        yield
    except CallRefusedError as error:
        session.refused = str(error)
        raise


def application(endpoint: Endpoint, desk: Desk | None = None) -> FastAPI:
    """The API. With a `desk` agents get episodes there, too."""
    app = FastAPI(title="AIS episodes", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.route_class = BoundedRoute
    base = f"{EPISODES}{{name}}/v1"
    bodies: dict[tuple[str, str], type[BaseModel]] = {
        ("POST", f"{base}/chat/completions"): Completion,
        ("POST", f"{base}/completions"): RawCompletion,
        ("POST", f"{base}/end"): End,
    }

    @app.exception_handler(CallRefusedError)
    async def refused(_: Request, error: CallRefusedError) -> JSONResponse:
        free = {"connection": "close"} if error.status in _NO_MORE else None
        return JSONResponse(error.body(), error.status, free)

    @app.exception_handler(AnyHttpError)
    async def no_such_thing(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(CallRefusedError(error.status_code, str(error.detail)).body(), error.status_code)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse(CallRefusedError(500, "the endpoint failed; its log says why").body(), 500)

    @app.get(f"{base}/models", dependencies=[TOKEN], responses=_refusals(400, 401))
    async def models(name: str, request: Request) -> JSONResponse:
        endpoint.session(name, request.headers.get("authorization", ""))
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "ais"}
        return JSONResponse({"object": "list", "data": [model]})

    @app.post(
        f"{base}/chat/completions",
        dependencies=[TOKEN],
        response_class=Response,
        responses=_ANSWERS | _refusals(400, 401, 408, 413, 429, 503),
    )
    async def completions(name: str, request: Request) -> Response:
        return await _answered(endpoint, name, request, completion_in)

    @app.post(
        f"{base}/completions",
        dependencies=[TOKEN],
        response_class=Response,
        responses=_ANSWERS | _refusals(400, 401, 408, 413, 429, 503),
    )
    async def raw_completions(name: str, request: Request) -> Response:
        return await _answered(endpoint, name, request, raw_completion_in)

    @app.post(f"{base}/end", dependencies=[TOKEN], responses=_refusals(400, 401, 408, 413))
    async def end(name: str, request: Request) -> JSONResponse:
        session = endpoint.session(name, request.headers.get("authorization", ""))
        with _told(session):
            session.end(end_in(await request.body()))
            return JSONResponse({"ended": True})

    if desk is not None:
        _give_episodes(app, desk)
        bodies["POST", OFFERS] = Wanted
    describe_bodies(app, bodies)
    return app


async def _answered(endpoint: Endpoint, name: str, request: Request, read: Callable[[bytes], Asked]) -> Response:
    session = endpoint.session(name, request.headers.get("authorization", ""))
    with _told(session):
        asked = read(await request.body())
        if asked.stream:
            return await streamed(request, session, asked)
        completed = await unless_left(request, session.complete(asked))
        return JSONResponse(completed.body())


def _give_episodes(app: FastAPI, desk: Desk) -> None:
    answers: Responses = {200: {"model": Offered}, 204: {"description": "there is none"}}

    @app.post(
        OFFERS,
        dependencies=[TOKEN],
        response_model=None,
        responses=answers | _refusals(400, 408, 413) | NOT_LET_IN,
    )
    async def episodes(request: Request) -> Response:
        wanted = wanted_in(await request.body())
        offered = await unless_left(request, desk.episode(wanted.seconds))
        if offered is None:
            return Response(status_code=204)
        reached = str(request.base_url).rstrip("/") + urlsplit(offered.base_url).path
        return JSONResponse(offered.model_copy(update={"base_url": reached}).model_dump())


@asynccontextmanager
async def open_endpoint() -> AsyncIterator[tuple[Endpoint, str]]:
    """An endpoint that listens while the context is open, and its address."""
    endpoint = Endpoint()
    async with serve(application(endpoint), HOST, 0, serves="episodes") as port:
        yield endpoint, f"http://{HOST}:{port}"
