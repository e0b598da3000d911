"""Every endpoint of every service, by who may use it. A new endpoint that is not in the table fails here."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.routing import APIRoute
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from ais.collector.judging.harness.desk import Desk
from ais.collector.judging.harness.endpoint import Endpoint
from ais.collector.judging.harness.endpoint import application as episodes_application
from ais.contracts.model_identity import ModelIdentity
from ais.contracts.v1 import rollout_pb2
from ais.rollout.generation_api import GenerationService, ReplicaIdentity
from ais.rollout.generation_server import ServerLimits, serve_generation
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.weights.control_api import control_application
from ais.runtime.metrics.registry import service_registry
from ais.runtime.network.http import application, serve
from ais.runtime.security.keyring import Keyring
from ais.runtime.security.refusals import Refusal
from ais.runtime.security.roles import Allowed, Role, may_play
from tests.support.access import bearer, metadata, refused_callers, tokens
from tests.support.access.endpoints import EPISODES, GRPC, HTTP
from tests.support.replicas.replica_stand_ins import StandInReplica

A, C, T, M = Role.AGENT, Role.COLLECTOR, Role.TRAINER, Role.METRICS

WRONG = "Bearer " + "0123456789abcdef" * 3
CALLERS: dict[str, Role | None] = {"nobody": None, "a wrong token": None}
CALLERS |= {"agent": A, "collector": C, "trainer": T, "metrics": M}
CODES = {
    Refusal.NO_TOKEN: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.WRONG_TOKEN: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.WRONG_ROLE: grpc.StatusCode.PERMISSION_DENIED,
}
QUICK_SECONDS = 5.0
"""A refusal takes milliseconds; machines that run tests are busy."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


def expected(caller: str, allowed: Allowed) -> Refusal | None:
    role = CALLERS[caller]
    if allowed is None or role in allowed:
        return None
    if role is not None:
        return Refusal.WRONG_ROLE
    return Refusal.NO_TOKEN if caller == "nobody" else Refusal.WRONG_TOKEN


def headers(caller: str) -> dict[str, str]:
    role = CALLERS[caller]
    return bearer(role) if role else {"authorization": WRONG} if caller == "a wrong token" else {}


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    for route in app.routes:
        assert isinstance(route, APIRoute | Route), "what is mounted needs a test of its own"
        yield from ((method, route.path) for method in route.methods or () if method != "HEAD")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    replica = StandInReplica("closed", 0, "blake3:0", tmp_path_factory.mktemp("staging"))
    async with serve(replica.app, "127.0.0.1", 0, Keyring(tokens()).door(*Role)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grpc_address() -> AsyncIterator[str]:
    identity = ReplicaIdentity("replica", "run", ModelIdentity("", ""))
    service = GenerationService(None, identity, RolloutMetrics(CollectorRegistry()))  # type: ignore[arg-type]
    door = Keyring(tokens()).door(*Role)
    async with serve_generation(service, "127.0.0.1", 0, ServerLimits(), door) as server:
        yield f"127.0.0.1:{server.port}"


async def test_the_table_has_every_route_of_every_application(tmp_path: Path) -> None:
    replica = StandInReplica("listed", 0, "blake3:0", tmp_path)
    plain = application("collector and trainer", service_registry("test"), lambda: None)
    control = control_application(CollectorRegistry(), lambda: None, replica.intake)
    assert {*routes(plain), *routes(control)} == set(HTTP)


async def test_the_table_has_every_method_of_every_grpc_service() -> None:
    files = (rollout_pb2, health_pb2, reflection_pb2)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert methods == set(GRPC)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("method", "path"), HTTP)
async def test_a_request_is_refused_unless_the_table_allows_it(
    http_url: str, method: str, path: str, caller: str
) -> None:
    refusal, before, begun = expected(caller, HTTP[method, path]), refused_callers(), time.monotonic()
    async with httpx.AsyncClient(base_url=http_url, timeout=QUICK_SECONDS, trust_env=False) as client:
        answer = await client.request(method, path.format(version=1, index=0), headers=headers(caller), content=b"{}")
    counted = {reason: count - before[reason] for reason, count in refused_callers().items()}
    assert counted == {reason: float(reason is refusal) for reason in Refusal}
    if refusal is None:
        assert answer.status_code not in (401, 403)
        return
    told = ("forbidden", 403) if refusal is Refusal.WRONG_ROLE else ("unauthenticated", 401)
    assert (answer.json(), answer.status_code) == ({"detail": told[0]}, told[1])
    assert time.monotonic() - begun < QUICK_SECONDS


async def test_the_table_has_every_route_of_where_agents_play() -> None:
    app = episodes_application(Endpoint(), Desk())
    assert set(routes(app)) == set(EPISODES)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("method", "path"), EPISODES)
async def test_an_episode_is_given_to_agents_alone_and_its_calls_need_its_key(
    method: str, path: str, caller: str
) -> None:
    before, app = refused_callers(), episodes_application(Endpoint(), Desk())
    async with (
        serve(app, "127.0.0.1", 0, Keyring(tokens()).door(*Role), rule=may_play) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=QUICK_SECONDS, trust_env=False) as client,
    ):
        answer = await client.request(method, path.format(name="1"), headers=headers(caller), content=b'{"seconds": 0}')
    counted = {reason: count - before[reason] for reason, count in refused_callers().items()}
    refusal = expected(caller, EPISODES[method, path])
    if path.startswith("/episodes/"):
        refusal = Refusal.NO_TOKEN if caller == "nobody" else Refusal.WRONG_TOKEN
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    else:
        assert answer.status_code == (204 if refusal is None else 403 if refusal is Refusal.WRONG_ROLE else 401)
    assert counted == {reason: float(reason is refusal) for reason in Refusal}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("method", GRPC)
async def test_a_call_is_refused_unless_the_table_allows_it(grpc_address: str, method: str, caller: str) -> None:
    refusal, before = expected(caller, GRPC[method]), refused_callers()
    presented, endless = tuple(headers(caller).items()), method.endswith("Watch")
    async with grpc.aio.insecure_channel(grpc_address) as channel:
        # One message that goes with the call: a stream's follows it, and fails where the refusal is quicker.
        call = channel.unary_stream(method)(b"", timeout=QUICK_SECONDS, metadata=presented)
        with suppress(grpc.aio.AioRpcError):  # there is no engine: a call that is let in ends in some other error
            await call.read()
        if not endless or refusal:
            code, words = await call.code(), await call.details()
            assert code is (CODES[refusal] if refusal else code)
            assert (code in CODES.values()) == (refusal is not None)
            assert refusal is None or words == refusal.told
        call.cancel()
    counted = {reason: count - before[reason] for reason, count in refused_callers().items()}
    assert counted == {reason: float(reason is refusal) for reason in Refusal}


@pytest.mark.parametrize("path", ["/", "/healthz/", "//metrics", "/v1", "/healthz/../metrics", "/docs"])
async def test_a_path_that_does_not_exist_says_nothing_to_strangers(http_url: str, path: str) -> None:
    async with httpx.AsyncClient(base_url=http_url, timeout=QUICK_SECONDS, trust_env=False) as client:
        assert (await client.get(path)).status_code == 401
        assert (await client.post(path, headers=bearer(M))).status_code == 403


async def test_a_call_of_a_method_that_does_not_exist_is_refused_to_strangers(grpc_address: str) -> None:
    async with grpc.aio.insecure_channel(grpc_address) as channel:
        for method in ("/ais.v1.Rollout/Absent", "/grpc.health.v1.HealthX/Check"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary(method)(b"", timeout=QUICK_SECONDS)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary(method)(b"", timeout=QUICK_SECONDS, metadata=metadata(C))
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_readiness_tells_its_reason_only_to_who_has_a_token() -> None:
    app = application("test", service_registry("test"), lambda: "the secret state of the run")
    async with (
        serve(app, "127.0.0.1", 0, Keyring(tokens()).door(M)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        stranger, known = await client.get("/readyz"), await client.get("/readyz", headers=bearer(M))
    assert (stranger.status_code, stranger.json()["reason"]) == (503, "")
    assert (known.status_code, known.json()["reason"]) == (503, "the secret state of the run")


async def test_a_body_of_a_stranger_is_not_read(http_url: str) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    async with httpx.AsyncClient(base_url=http_url, timeout=QUICK_SECONDS, trust_env=False) as client:
        try:
            answer = await client.put("/v1/weights/1", content=endless())
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            pass  # cut off while it was sending
        else:
            assert answer.status_code == 401
    assert sent < 1 << 28
