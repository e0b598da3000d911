"""The reward service of examples/, a real server, asked by the client of the collector; and servers that misbehave."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry

from ais.collector.judging.judgement import Failure, Judgement, Outcome
from ais.collector.judging.opening import open_judge
from ais.collector.judging.service import ServiceClient
from ais.collector.metrics import CollectorMetrics
from ais.collector.prompts.prompts import Prompt
from ais.collector.settings import CollectorSettings, TaskSettings
from ais.collector.settings.rewards import Service
from ais.runtime.network.addresses import listening_socket
from ais.runtime.network.http import serve
from ais.runtime.process import UnavailableError
from tests.support.judges import ended

EXAMPLE = Path(__file__).parents[3] / "examples" / "reward_service"
PROMPT = Prompt("p", "321=", "123")


@asynccontextmanager
async def example_service(token: str) -> AsyncIterator[str]:
    """The example as its README starts it; gives its URL."""
    listener = listening_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    arguments = ["-m", "uvicorn", "--app-dir", str(EXAMPLE), "service:app", "--fd", str(listener.fileno())]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        pass_fds=[listener.fileno()],
        env=os.environ | {"REWARD_SERVICE_TOKEN": token},
    )
    listener.close()
    try:
        yield f"http://127.0.0.1:{port}/score"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def server(answer: Callable[[list[dict[str, Any]]], Any]) -> AsyncIterator[str]:
    """Answers each request with what `answer` makes of its items."""
    app = FastAPI()

    @app.post("/")
    async def post(request: Request) -> Any:
        found = answer((await request.json())["items"])
        return await found if isinstance(found, Awaitable) else found

    async with serve(app, "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}/"


async def judged(url: str, texts: list[str], metrics: CollectorMetrics | None = None, **more: Any) -> list[Judgement]:
    component = Service.model_validate({"url": url, "name": "judge", "retries": 0, "deadline_seconds": 5.0} | more)
    metrics = metrics or CollectorMetrics(CollectorRegistry())
    async with ServiceClient(component, False, metrics.judged, metrics.service_called) as client:
        return await client.judge(PROMPT, [ended(text) for text in texts])


async def test_the_example_service_judges_for_whoever_has_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_TEST_SECRET", "Bearer abc")
    async with example_service("abc") as url:
        reward = {"verifier": "service", "url": url, "name": "judge", "secret_environment": "AIS_TEST_SECRET"}
        settings = CollectorSettings(task=TaskSettings.model_validate({"reward": [reward | {"retries": 50}]}))
        async with open_judge(settings) as judge:
            found = await judge.judge(PROMPT, [ended("123"), ended("132"), ended("")])
        (refused,) = await judged(url, ["123"])
    assert found.rewards == pytest.approx((2.0, 1 / 3, 0.0))
    assert {part.name for part in found.components} == {"judge.places", "judge.exact"}
    assert isinstance(refused, Failure)
    assert "answered 401" in refused.reason


async def test_a_group_is_sent_in_batches_and_comes_back_in_order() -> None:
    sizes = Counter[int]()

    def answer(items: list[dict[str, Any]]) -> Any:
        sizes[len(items)] += 1
        return {"scores": [float(item["response"]) for item in items]}

    async with server(answer) as url:
        found = await judged(url, [str(number) for number in range(10)], batch=4)
    assert found == [{"": float(number)} for number in range(10)]
    assert sizes == {4: 2, 2: 1}


async def test_a_service_that_is_away_for_a_moment_is_asked_again_and_each_call_is_counted() -> None:
    calls = 0

    def answer(items: list[dict[str, Any]]) -> Any:
        nonlocal calls
        calls += 1
        return Response(status_code=503) if calls < 3 else {"scores": [1.0]}

    registry = CollectorRegistry()
    async with server(answer) as url:
        assert await judged(url, ["x"], CollectorMetrics(registry), retries=5) == [{"": 1.0}]
    counted = {
        outcome: registry.get_sample_value(
            "ais_collector_reward_service_calls_total", {"component": "judge", "outcome": outcome}
        )
        for outcome in ("503", "200")
    }
    assert counted == {"503": 2.0, "200": 1.0}


async def test_one_that_never_answers_costs_its_deadline() -> None:
    async def never(items: list[dict[str, Any]]) -> Any:
        await asyncio.sleep(1000)

    async with server(never) as url:
        (found,) = await judged(url, ["x"], deadline_seconds=0.2, retries=1)
    assert isinstance(found, Failure)
    assert found.outcome is Outcome.SERVICE
    assert "within 0.2 s" in found.reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"scores": [1.0]}, "expected 2 scores"),
        ({"rewards": [1.0, 1.0]}, "expected {"),
        ([1.0, 1.0], "expected {"),
        (Response(b"x" * 17_000_000), "answered more than"),
        (Response(b"[" * 100_000), "expected {"),
        (Response(status_code=404), "answered 404"),
        (Response(status_code=302, headers={"Location": "http://127.0.0.1:9/"}), "answered 302"),
    ],
)
async def test_an_answer_to_something_else_is_a_failure_with_its_reason(answer: Any, reason: str) -> None:
    async with server(lambda items: answer) as url:
        found = await judged(url, ["x", "y"])
    assert all(isinstance(one, Failure) and reason in one.reason for one in found)


async def test_an_item_that_it_cannot_judge_costs_the_others_nothing() -> None:
    scores = [1.0, {"error": "the sandbox is full"}, None, True, {"a": 0.5}]
    async with server(lambda items: {"scores": scores}) as url:
        found = await judged(url, list("vwxyz"))
    assert found[0] == {"": 1.0}
    assert found[4] == {"a": 0.5}
    assert [one.outcome for one in found[1:4] if isinstance(one, Failure)] == [
        Outcome.SERVICE, Outcome.NO_REWARD, Outcome.NO_REWARD,
    ]  # fmt: skip


async def test_a_port_where_nobody_listens_is_a_failure_with_its_reason() -> None:
    (found,) = await judged("http://127.0.0.1:1/", ["x"])
    assert isinstance(found, Failure)
    assert "ConnectError" in found.reason


@contextmanager
def secret_file(tmp_path: Path, text: bytes) -> Any:
    file = tmp_path / "secret"
    file.write_bytes(text)
    yield {"secret_file": str(file)}


async def test_the_secret_may_stand_in_a_file_and_is_sent_in_the_header_of_its_name(tmp_path: Path) -> None:
    app, headers = FastAPI(), {}

    @app.post("/")
    async def post(request: Request) -> Any:
        headers.update(request.headers)
        return {"scores": [1.0]}

    async with serve(app, "127.0.0.1", 0) as port:
        with secret_file(tmp_path, b"abc\n") as secret:
            await judged(f"http://127.0.0.1:{port}/", ["x"], header="X-Key", **secret)
    assert headers["x-key"] == "abc"


@pytest.mark.parametrize("text", [b"", b"a\r\nX: y", b"\xff", "ä".encode()])
async def test_a_secret_that_is_no_header_is_refused_before_anything_is_sent(tmp_path: Path, text: bytes) -> None:
    with secret_file(tmp_path, text) as secret, pytest.raises(UnavailableError, match="the secret of the reward"):
        await judged("http://127.0.0.1:1/", ["x"], **secret)
    with pytest.raises(UnavailableError, match="AIS_TEST_MISSING"):
        await judged("http://127.0.0.1:1/", ["x"], secret_environment="AIS_TEST_MISSING")
