"""The console's HTTP side: the page, and the answers from which it draws a run. Every request only reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ais.console import samples
from ais.console.alerts import Alerts
from ais.console.curves import Seen, curves, stretch
from ais.console.door import ConsoleDoor
from ais.console.feed import Feed
from ais.console.fleet import fleet
from ais.console.logs import log_names, tail
from ais.console.runs import Runs
from ais.console.state import state
from ais.launcher.directory.plots import MOST_CURVES, NEAR, SECTIONS
from ais.runtime.network.openapi import Refused, Responses
from ais.runtime.network.redis_url import without_passwords

PAGE = Path(__file__).with_name("page")
HOSTS = ["127.0.0.1", "localhost"]
"""What a browser may call this machine; another name could be a stranger's that leads here."""
LONGEST_TEXT = 200
SMALLEST_COMPRESSED = 2000

Run = Annotated[str, Query(max_length=4096)]
Keys = Annotated[str, Query(max_length=8192, description="names of quantities, with commas between")]
Number = Annotated[int, Query(ge=0, le=2**53)]
_DOORS: Responses = {
    303: {"description": "the address with the token leads to the one without it, with a cookie"},
    400: {"content": {"text/plain": {}}, "description": "another host's name"},
    401: {"content": {"text/plain": {}}, "description": "neither token nor cookie"},
}
_ABSENT: Responses = {404: {"model": Refused, "description": "there is no such run or log"}}
_TEXT: Responses = {200: {"content": {"text/plain": {}}}}


def console_app(runs: Runs, token: str, alerts: Alerts) -> FastAPI:
    """The application. Routes that read files are plain functions, which FastAPI runs in threads."""
    app = FastAPI(title="AIS console", docs_url=None, redoc_url=None, openapi_url=None, responses=_DOORS)

    @contextmanager
    def up_to_date(run: str) -> Iterator[Feed]:
        feed = runs.feed(run)
        if feed is None:
            raise HTTPException(404, "there is no such run")
        with feed.lock:
            feed.catch_up()
            yield feed

    @app.get("/", response_class=HTMLResponse)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/api/runs")
    def known_runs() -> dict[str, Any]:
        return {"run": runs.run, "other": runs.other, "runs": runs.names()}

    @app.get("/api/plots")
    def known_plots() -> dict[str, Any]:
        return {"sections": [asdict(section) for section in SECTIONS], "most_curves": MOST_CURVES, "near": NEAR}

    @app.get("/api/state", responses=_ABSENT)
    def run_state(run: Run) -> dict[str, Any]:
        with up_to_date(run) as feed:
            return {**state(feed.directory, feed.columns), "behind": feed.behind, "versions": feed.versions}

    @app.get("/api/curves", responses=_ABSENT)
    def run_curves(run: Run, keys: Keys, generation: Number = 0, rows: Number = 0, width: Number = 0) -> dict[str, Any]:
        with up_to_date(run) as feed:
            return curves(feed.columns, feed.generation, keys.split(","), Seen(generation, rows, width))

    @app.get("/api/stretch", responses=_ABSENT)
    def run_stretch(run: Run, keys: Keys, first: Number, last: Number) -> dict[str, Any]:
        with up_to_date(run) as feed:
            return stretch(feed.columns, feed.generation, keys.split(","), first, last)

    @app.get("/api/evaluations", responses=_ABSENT)
    def run_evaluations(run: Run) -> dict[str, Any]:
        with up_to_date(run) as feed:
            return {"scores": feed.scores}

    @app.get("/api/events", responses=_ABSENT)
    def run_events(run: Run) -> dict[str, Any]:
        with up_to_date(run) as feed:
            return {"events": feed.events}

    @app.get("/api/alerts")
    def known_alerts() -> dict[str, Any]:
        return alerts.now()

    @app.get("/api/fleet", responses=_ABSENT)
    def run_fleet(run: Run) -> dict[str, Any]:
        with up_to_date(run) as feed:
            return fleet(feed.directory.fleet)

    @app.get("/api/samples", responses=_ABSENT)
    def run_samples(
        run: Run,
        text: Annotated[str, Query(max_length=LONGEST_TEXT)] = "",
        first: Number = 0,
        last: Number | None = None,
        skip: Number = 0,
        limit: Annotated[int, Query(ge=1, le=samples.MOST_SHOWN)] = 20,
    ) -> dict[str, Any]:
        with up_to_date(run) as feed:
            kept = list(feed.samples.items)
        return samples.found(kept, samples.Query(text, first, last, skip, limit))

    @app.get("/api/logs", responses=_ABSENT)
    def run_logs(run: Run) -> dict[str, Any]:
        with up_to_date(run) as feed:
            return {"logs": log_names(feed.directory.logs)}

    @app.get("/api/log", response_class=Response, responses=_ABSENT | _TEXT)
    def run_log(run: Run, name: Annotated[str, Query(max_length=LONGEST_TEXT)]) -> PlainTextResponse:
        with up_to_date(run) as feed:
            text = tail(feed.directory.logs, name)
        if text is None:
            raise HTTPException(404, "there is no such log")
        return PlainTextResponse(text)

    @app.get("/api/settings", response_class=Response, responses=_ABSENT | _TEXT)
    def run_settings(run: Run) -> PlainTextResponse:
        with up_to_date(run) as feed:
            return PlainTextResponse(without_passwords(feed.directory.config.read_text(encoding="utf-8")))

    app.mount("/", StaticFiles(directory=PAGE))
    app.add_middleware(GZipMiddleware, minimum_size=SMALLEST_COMPRESSED)
    app.add_middleware(ConsoleDoor, token=token)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    return app
