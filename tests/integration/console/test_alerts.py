"""Asking a Prometheus for its alerts: whatever it answers, the console says it in a line, and soon."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ais.console import alerts as module
from ais.console.alerts import Alerts, Prometheus, PrometheusAddressError

PENDING = {"labels": {"alertname": "AisOne", "severity": "warning", "job": "trainer"}, "state": "pending"}
FIRING = {
    "labels": {"alertname": "AisTwo"},
    "annotations": {"summary": "<b>\x1b[31mtwo", "runbook_url": "docs/runbook.md#aistwo"},
    "state": "firing", "activeAt": "2026-01-01T00:00:00.5Z", "value": "1e+00",
}  # fmt: skip
OTHERS = {"labels": {"alertname": "HostDown"}, "state": "firing"}


def body(*alerts: dict[str, Any]) -> bytes:
    return json.dumps({"status": "success", "data": {"alerts": alerts}}).encode()


@contextmanager
def answering(content: bytes, token: str = "", endless: bool = False) -> Iterator[str]:
    """Address of a server that gives everybody with the token this answer; `endless`: again and again."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = not token or self.headers["authorization"] == f"Bearer {token}"
            known = self.path == "/api/v1/alerts"
            self.send_response(200 if allowed and known else 404 if allowed else 401)
            self.end_headers()
            try:
                self.wfile.write(content)
                while endless:
                    self.wfile.write(content)
                    time.sleep(0.01)
            except OSError:
                return

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def told(url: str, **more: Any) -> dict[str, Any]:
    return Alerts(Prometheus(url, **more)).now()


def test_the_alerts_of_our_rules_are_told_those_that_fire_first() -> None:
    with answering(body(PENDING, OTHERS, FIRING)) as url:
        answer = told(url + "/")
    assert (answer["prometheus"], answer["trouble"]) == (url + "/", "")
    two, one = answer["alerts"]
    assert (one["name"], one["state"], one["severity"], one["about"]) == ("AisOne", "pending", "warning", "job trainer")
    assert (two["name"], two["runbook"], two["since"]) == ("AisTwo", "docs/runbook.md#aistwo", 1767225600.5)
    assert two["summary"] == "<b>\\x1b[31mtwo"


def test_it_is_asked_once_in_a_while_however_many_pages_ask() -> None:
    with answering(body(FIRING)) as url:
        alerts = Alerts(Prometheus(url))
        first = alerts.now()
    assert alerts.now() is first, "nobody listens any more"


def test_the_token_of_the_file_is_presented(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a-word\n")
    with answering(body(FIRING), token="a-word") as url:
        assert "401: give it a token by --prometheus-token" in told(url)["trouble"]
        assert [one["name"] for one in told(url, token=file)["alerts"]] == ["AisTwo"]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff", b'{"data": {"alerts": [{"labels": 7}]}}', b"[" * 10_000]
)
def test_what_is_no_answer_of_a_prometheus_is_told_as_that(content: bytes) -> None:
    with answering(content) as url:
        assert "something else than alerts" in told(url)["trouble"]


@pytest.mark.parametrize(("piece", "words"), [(b"x" * 100_000, "more than"), (b"x", "no answer in")])
def test_an_answer_that_does_not_end_ends_here(piece: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_SECONDS", 1.0)
    with answering(piece, endless=True) as url:
        began = time.monotonic()
        assert words in told(url)["trouble"]
        assert time.monotonic() - began < 10


def test_nobody_at_the_address_and_no_file_there_are_told(tmp_path: Path) -> None:
    with answering(b"") as url:
        file = tmp_path / "token"
        file.write_text("word")
        prometheus = Prometheus(url, token=file)
        file.unlink()
        assert "No such file" in Alerts(prometheus).now()["trouble"]
    assert told(url)["trouble"]


@pytest.mark.parametrize(
    "url",
    ["", "prometheus:9090", "ftp://a", "http://", "http://a:99999", "http://user:word@a", "http://a/?x=1", "http://[a"],
)
def test_what_is_no_address_of_a_prometheus_is_refused(url: str) -> None:
    with pytest.raises(PrometheusAddressError) as refused:
        Prometheus(url)
    assert "word" not in str(refused.value).replace("password", "")
