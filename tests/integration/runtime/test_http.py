"""The HTTP side every service has, over real sockets."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ais.runtime.metrics import service_registry
from ais.runtime.network.http import application, serve
from ais.runtime.process import UnavailableError


async def test_readiness_tells_the_reason_until_the_service_can_work() -> None:
    reason: list[str] = ["loading the model"]
    app = application("test", service_registry("test"), lambda: next(iter(reason), None))
    async with serve(app, "127.0.0.1", 0) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        assert (await http.get("/healthz")).status_code == 200
        waiting = await http.get("/readyz")
        assert (waiting.status_code, waiting.json()["reason"]) == (503, "loading the model")
        reason.clear()
        assert (await http.get("/readyz")).status_code == 200


async def test_metrics_are_valid_openmetrics() -> None:
    app = application("test", service_registry("test"), lambda: None)
    async with serve(app, "127.0.0.1", 0) as port, httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "ais_build_info" in {family.name for family in text_string_to_metric_families(answer.text)}


async def test_a_taken_port_is_an_error_at_once() -> None:
    app = application("test", service_registry("test"), lambda: None)
    async with serve(app, "127.0.0.1", 0) as port:
        with pytest.raises(UnavailableError, match="in use"):
            async with serve(app, "127.0.0.1", port):
                pass


async def test_the_port_is_free_again_after_the_context() -> None:
    app = application("test", service_registry("test"), lambda: None)
    async with serve(app, "127.0.0.1", 0) as port:
        pass
    async with serve(app, "127.0.0.1", port) as again:
        assert again == port
