"""The HTTP server of a service: a FastAPI application inside the service's event loop, with health and metrics.

`/healthz` answers while the process lives; `/readyz` answers 503 until the service can do its work, with the reason for
whoever has a token; `/metrics` is OpenMetrics
or Prometheus' text, as the caller accepts. What a peer may ask for is bounded by `ais.runtime.network.http_limits`,
and who may ask by a door.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from ais.runtime.metrics.exposition import Exposition
from ais.runtime.metrics.last_word import Readers
from ais.runtime.network.addresses import authority, http_url, listening_socket
from ais.runtime.network.http_limits import LONGEST_HEAD_BYTES, BoundedProtocol, BoundedRoute
from ais.runtime.network.openapi import NOT_LET_IN, TOKEN, Responses
from ais.runtime.process import UnavailableError
from ais.runtime.security.door import Door, refuse_without_door
from ais.runtime.security.http_door import KNOWN, HttpDoor, Rule
from ais.runtime.security.roles import may_request

logger = logging.getLogger(__name__)

_EXPOSITION: Responses = {200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}}

STOP_SECONDS = 3.0
"""Requests that still run this long after the server was told to stop are cut off."""


class Health(BaseModel):
    """Answer of the health endpoints."""

    status: str
    reason: str = ""


def application(
    title: str, registry: CollectorRegistry, not_ready: Callable[[], str | None], readers: Readers | None = None
) -> FastAPI:
    """An application with health and metrics. `not_ready` says why the service cannot work yet; None: it can.
    `readers` is told when metrics are read."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None)
    app.router.route_class = BoundedRoute
    exposition = Exposition(registry)

    @app.get("/healthz")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get("/readyz", responses={503: {"model": Health, "description": "not yet"}})
    async def readyz(request: Request, response: Response) -> Health:
        if reason := not_ready():
            response.status_code = 503
            return Health(status="not ready", reason=reason if request.scope.get(KNOWN, True) else "")
        return Health(status="ready")

    @app.get("/metrics", dependencies=[TOKEN], response_class=Response, responses=NOT_LET_IN | _EXPOSITION)
    async def metrics(request: Request) -> Response:
        if readers is not None:
            readers.read()
        made = await exposition.read(request.headers.get("accept", ""))
        return Response(made.content, media_type=made.media_type)

    return app


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


@asynccontextmanager
async def serve(
    app: FastAPI, host: str, port: int, door: Door | None = None, serves: str = "metrics", rule: Rule = may_request
) -> AsyncIterator[int]:
    """Serves `app` while the context is open, and gives the port (useful with port 0). The log says where what it
    `serves` is.

    Without a door only this machine may reach it; the door's certificates make it HTTPS, and it asks callers for what
    the `rule` says. Raises UnavailableError when
    nothing can listen there, as on a port that is taken.
    """
    refuse_without_door(host, door)
    try:
        listener = listening_socket(host, port)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {authority(host, port)} for HTTP: {error.strerror or error}. Set another port, or 0 for "
            "a free one"
        ) from error
    bound = int(listener.getsockname()[1])
    certificates = door.certificates if door else None
    logger.info("%s at %s/%s", serves, http_url(host, bound, tls=certificates is not None), serves)
    config = uvicorn.Config(
        app if door is None else HttpDoor(app, door, rule),
        http=BoundedProtocol,
        ws="none",
        h11_max_incomplete_event_size=LONGEST_HEAD_BYTES,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=int(STOP_SECONDS),
        ssl_context_factory=(lambda _config, _default: certificates.server()) if certificates else None,
    )
    server = uvicorn.Server(config)
    server.capture_signals = _no_signals  # type: ignore[method-assign]  # the service decides when it stops
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        yield bound
    finally:
        server.should_exit = True
        await asyncio.wait([task], timeout=STOP_SECONDS + 1)
        task.cancel()
        listener.close()
