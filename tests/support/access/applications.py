"""Every HTTP application, as it listens: what it says of itself, who may use it, and values that lead somewhere."""

from __future__ import annotations

import ast
import asyncio
import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI

import ais
from ais.collector.judging.harness.answers import Completed
from ais.collector.judging.harness.desk import Desk
from ais.collector.judging.harness.endpoint import OFFERS, Endpoint
from ais.collector.judging.harness.endpoint import application as episodes_application
from ais.collector.judging.harness.raw_answers import RawCompleted
from ais.collector.judging.harness.wire import Asked, Completion, End, Offered
from ais.console.alerts import Alerts
from ais.console.runs import Runs
from ais.console.server import console_app
from ais.contracts.weights.offer import DIGEST_HEADER, full_offer
from ais.launcher.directory.run_directory import RunDirectory
from ais.rollout.weights.control_api import control_application
from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.http import application, serve
from ais.runtime.security.door import Door
from ais.runtime.security.http_door import Rule
from ais.runtime.security.keyring import Keyring
from ais.runtime.security.roles import Role, may_play, may_request
from tests.support.access import bearer, tokens
from tests.support.access.endpoints import HTTP
from tests.support.replicas.replica_stand_ins import StandInReplica

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Exposed:
    """An application behind a socket."""

    url: str
    document: dict[str, Any]
    """Its OpenAPI, in which parameters also have the values that lead somewhere."""
    allowed: Callable[[str, str], Headers]
    """The headers of a caller who may make a request, by method and path of the OpenAPI."""


@contextmanager
def exposed(
    app: FastAPI,
    door: Door | None,
    allowed: Callable[[str, str], Headers],
    known: Mapping[str, list[Any]],
    rule: Rule = may_request,
) -> Iterator[Exposed]:
    """Serves `app` in a thread. `known`: values of parameters, by name."""
    document = copy.deepcopy(app.openapi())
    for path in document["paths"].values():
        for parameter in (one for operation in path.values() for one in operation.get("parameters", ())):
            if values := known.get(parameter["name"]):
                parameter["schema"] = {"anyOf": [{"enum": values}, parameter["schema"]]}
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(app, "127.0.0.1", 0, door, rule=rule)) as port,
    ):
        yield Exposed(f"http://127.0.0.1:{port}", document, allowed)


def by_role(method: str, path: str) -> Headers:
    """By the table of endpoints."""
    roles = HTTP[method, path]
    return bearer(min(roles)) if roles else {}


def shared(_: Path) -> AbstractContextManager[Exposed]:
    """What the trainer and the collector serve."""
    app = application("AIS", service_registry("test"), lambda: None)
    return exposed(app, Keyring(tokens()).door(*Role), by_role, {})


@contextmanager
def replica(directory: Path) -> Iterator[Exposed]:
    """A replica to which version 1 was offered, of which the bytes have not come."""
    file = directory / "model.safetensors"
    file.write_bytes(b"a version")
    one = StandInReplica("described", 0, "blake3:0", directory)
    offer = full_offer(1, [file])
    known = {"version": [1], "index": [0], DIGEST_HEADER: [offer.shards[0].sent_digest]}
    app = control_application(one.metrics_registry, lambda: None, one.intake)
    with exposed(app, Keyring(tokens()).door(*Role), by_role, known) as listening:
        with start_blocking_portal() as portal:
            portal.call(one.intake.offer, offer)
        yield listening


class Talker:
    """Answers the calls of an episode that never ends."""

    reward = None
    failure = None
    refused = ""
    heard = 0.0
    is_asking = False

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def complete(self, asked: Asked, begun: Callable[[str], object] = lambda _: None) -> Completed:
        begun("one")
        kind = Completed if isinstance(asked, Completion) else RawCompleted
        return kind("one", "said", "stop", asked.size, asked.most_tokens(4))

    def end(self, told: End) -> None:
        assert told.reward is None or -1e6 < told.reward < 1e6


class OneEpisode(Desk):
    """Gives the same one to everybody."""

    async def episode(self, seconds: float) -> Offered | None:
        return Offered(base_url="/", key="key", silent_seconds=1.0, prompt={}) if seconds > 1 else None


@contextmanager
def episodes(_: Path) -> Iterator[Exposed]:
    """A living episode, where agents get others."""
    endpoint = Endpoint()
    with endpoint.episode(Talker()) as (path, key):
        name, presented = path.split("/")[2], {"authorization": f"Bearer {key}"}

        def allowed(_: str, path: str) -> Headers:
            return bearer(Role.AGENT) if path == OFFERS else presented

        app, door = episodes_application(endpoint, OneEpisode()), Keyring(tokens()).door(*Role)
        with exposed(app, door, allowed, {"name": [name]}, may_play) as listening:
            yield listening


@contextmanager
def console(directory: Path) -> Iterator[Exposed]:
    """The console of a run of two steps."""
    run = RunDirectory(directory / "demo")
    run.logs.mkdir(parents=True)
    run.config.write_text('[run]\nname = "demo"\n')
    run.steps.write_text(
        '{"step": 1, "reward_mean": 0.5, "time": 1.0}\n{"step": 2, "reward_mean": 0.75, "time": 2.0}\n'
    )
    (run.logs / "trainer.log").write_text("said\n")
    app, token = console_app(Runs(run), "the-token", Alerts(None)), "the-token"
    known: dict[str, list[Any]] = {"run": ["demo"], "keys": ["reward_mean"], "name": ["trainer"]}
    cookie = ""

    def allowed(*_: str) -> Headers:
        return {"cookie": cookie}

    with exposed(app, None, allowed, known) as listening:
        cookie = httpx.get(f"{listening.url}/?token={token}").headers["set-cookie"].partition(";")[0]
        yield listening


APPLICATIONS: dict[str, Callable[[Path], AbstractContextManager[Exposed]]] = {
    "runtime/network/http.py:application": shared,
    "rollout/weights/control_api.py:control_application": replica,
    "collector/judging/harness/endpoint.py:application": episodes,
    "console/server.py:console_app": console,
}
"""By the file below `services/ais` and the function that makes one."""


def made_anywhere() -> set[str]:
    """The same names, found in the source: functions that give a FastAPI, and places that make one."""
    root = Path(str(ais.__file__)).parent
    found = set()
    for file in root.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "FastAPI" in text or "Starlette" in text else ():
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            calls = (one.func for one in ast.walk(node) if isinstance(one, ast.Call))
            makes = any(ast.unparse(one).rpartition(".")[2] in ("FastAPI", "Starlette") for one in calls)
            if makes or (node.returns is not None and "FastAPI" in ast.unparse(node.returns)):
                found.add(f"{file.relative_to(root)}:{node.name}")
    return found
