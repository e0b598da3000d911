"""The HTTP side every service has, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from unittest.mock import Mock

import httpx
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from prometheus_client.registry import Collector

from ais.runtime.metrics import last_word
from ais.runtime.metrics.exposition import Exposition
from ais.runtime.metrics.last_word import Readers
from ais.runtime.metrics.registry import service_registry
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


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text", openmetrics),
        ("text/plain;version=0.0.4", "text/plain", plain_text),
        ("*/*", "text/plain", plain_text),
    ],
)
async def test_metrics_come_in_the_format_that_the_caller_accepts(
    accept: str, content_type: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    app = application("test", service_registry("test"), lambda: None)
    async with serve(app, "127.0.0.1", 0) as port, httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(content_type)
    assert "ais_build_info" in {family.name for family in parse(answer.text)}


async def test_metrics_are_made_once_for_all_who_ask_at_the_same_time_and_anew_for_who_asks_later() -> None:
    class Counting(Collector):
        made = 0

        def collect(self) -> Iterable[Metric]:
            self.made += 1
            yield GaugeMetricFamily("made", "How often the metrics were made.", value=self.made)

    registry, counting = CollectorRegistry(), Counting()
    registry.register(counting)
    before = counting.made
    exposition = Exposition(registry)
    texts = await asyncio.gather(*(exposition.read("text/plain") for _ in range(200)))
    assert counting.made == before + 1
    assert f"made {before + 1}.0" in texts[0].content.decode()
    assert f"made {before + 2}.0" in (await exposition.read("text/plain")).content.decode()


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


async def test_the_last_metrics_are_waited_for_where_somebody_reads_them_and_only_there() -> None:
    readers, stop = Readers(), asyncio.Event()
    app = application("test", service_registry("test"), lambda: None, readers)
    await readers.last_word(stop)  # at once: nobody has come
    async with serve(app, "127.0.0.1", 0) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        await http.get("/metrics")
        await asyncio.wait_for(readers.last_word(stop), 5.0)  # at once: somebody came, and does not come regularly
        await http.get("/metrics")
        waiting = asyncio.create_task(readers.last_word(stop))
        await asyncio.sleep(0)
        assert not waiting.done()
        await http.get("/metrics")
        await asyncio.wait_for(waiting, 5.0)


async def test_the_last_metrics_are_waited_for_also_after_a_reader_was_late_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readers, clock = Readers(), Mock()
    monkeypatch.setattr(last_word, "time", clock)
    for moment in (0.0, 5.0, 14.0, 15.0):
        clock.monotonic.return_value = moment
        readers.read()
    clock.monotonic.return_value = 18.0  # the next one is due at 20
    waiting = asyncio.create_task(readers.last_word(asyncio.Event()))
    await asyncio.sleep(0)
    assert not waiting.done()
    readers.read()
    await asyncio.wait_for(waiting, 5.0)
