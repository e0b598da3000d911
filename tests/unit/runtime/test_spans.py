"""Spans: what they cost when they are off, what they say, and what a collector that is away costs."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from ais.runtime.settings import SettingsError
from ais.runtime.tracing import exporter
from ais.runtime.tracing.counting import SPANS
from ais.runtime.tracing.exporter import traces, wanted
from ais.runtime.tracing.spans import carried, current_traceparent, is_on, record, span
from tests.support.monitoring.span_receiver import Receiver, receiving

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def no_variables_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*exporter.ENDPOINTS, *exporter.PROTOCOLS, "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv(ENDPOINT, receiver.url)
        yield receiver


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


def counted() -> dict[str, float]:
    samples = [sample for metric in SPANS.collect() for sample in metric.samples if sample.name.endswith("_total")]
    return {sample.labels["outcome"]: sample.value for sample in samples}


def test_without_an_endpoint_nothing_is_traced_and_nothing_that_traces_is_loaded() -> None:
    code = """
import sys
import ais.runtime.process
from ais.runtime.tracing.exporter import traces
from ais.runtime.tracing.spans import carried, span
with traces("test"), span("group", ordinal=3) as one:
    assert (one.traceparent, dict(carried())) == ("", {})
assert not [name for name in sys.modules if name.startswith("opentelemetry.exporter") or name.endswith(".batches")]
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_span_is_a_child_of_the_one_around_it_or_of_the_caller_that_is_named(receiver: Receiver) -> None:
    with traces("test"):
        with span("outer", group="demo-3-1") as outer:
            with span("inner") as inner:
                assert carried() == {"traceparent": inner.traceparent}
            assert current_traceparent() == outer.traceparent
        with span("elsewhere", "server", inner.traceparent):
            record("over", 10.0, 12.5, outer.traceparent, [inner.traceparent], version=4)
    spans = {one.name: one for one in receiver.spans}
    assert {name: one.parent for name, one in spans.items()} == {
        "outer": "",
        "inner": spans["outer"].id,
        "elsewhere": spans["inner"].id,
        "over": spans["outer"].id,
    }
    assert len({one.trace for one in spans.values()}) == 1
    assert spans["outer"].attributes == {"ais.group": "demo-3-1"}
    assert (spans["over"].begin, spans["over"].end, spans["over"].attributes) == (10.0, 12.5, {"ais.version": 4})
    assert not is_on()


@pytest.mark.parametrize("parent", ["", "nonsense", f"00-{'0' * 32}-{'1' * 16}-01", f"ff-{'1' * 32}-{'1' * 16}-01"])
def test_a_caller_who_names_no_span_begins_a_trace(parent: str, receiver: Receiver) -> None:
    with traces("test"):
        record("over", 1.0, 2.0, parent)
        with span("call", "server", parent, [parent]):
            pass
    (one,) = receiver.spans
    assert (one.name, one.parent, one.linked) == ("call", "", frozenset())


def test_an_error_is_told_by_its_kind_and_never_by_its_words(receiver: Receiver) -> None:
    with traces("test"), pytest.raises(ValueError, match="secret"), span("call"):
        raise ValueError("a secret of the prompt")
    assert receiver.spans[0].failed == "ValueError"
    assert b"secret" not in b"".join(receiver.raw)


@pytest.mark.parametrize(
    ("variables", "service"),
    [
        ({}, "ais-trainer"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,team=rl"}, "ours"),
    ],
)
def test_a_service_has_its_own_name_unless_the_variables_say_another(
    variables: dict[str, str], service: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with traces("trainer"), span("step"):
        pass
    assert receiver.spans[0].service == service


def test_a_caller_who_is_not_sampled_has_no_children(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.0")
    with traces("test"), span("group") as group:
        assert group.traceparent.endswith("-00")
        with span("call", "server", group.traceparent):
            record("over", 1.0, 2.0, group.traceparent)
    assert receiver.spans == []


def test_a_collector_that_is_away_costs_counted_spans_and_no_time(
    silent: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    monkeypatch.setattr(exporter, "FLUSH_SECONDS", 0.2)
    before = counted()
    with caplog.at_level(logging.WARNING):
        begin = time.monotonic()
        with traces("test"):
            for _ in range(1_000):
                with span("group"):
                    pass
        assert time.monotonic() - begin < 5.0  # an answer is waited for ten seconds, in another thread
    after = counted()
    assert after["queue_full"] - before["queue_full"] >= 900
    assert after["sent"] == before["sent"]
    assert [record.name for record in caplog.records] == ["ais.runtime.tracing.exporter"]
    assert "spans are lost" in caplog.text


def test_of_many_refusals_the_first_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{port}")  # nobody listens there any more
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.01")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    before = counted()
    with caplog.at_level(logging.WARNING), traces("test"):
        for _ in range(5):
            with span("group"):
                pass
    assert counted()["not_sent"] - before["not_sent"] == 5
    assert caplog.text.count("traces have holes") == 1


def test_without_the_packages_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.delitem(sys.modules, "ais.runtime.tracing.batches", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"pip install 'ais-rl\[traces\]'"), traces("test"):
        pass


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({ENDPOINT: "collector:4318"}, "expected http://HOST:4318"),
        ({ENDPOINT: "http://user:secret@[::1"}, "expected http://HOST:4318, or https://..., got something else$"),
        ({ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "by http/protobuf alone, got 'grpc'"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(variables: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        wanted(variables)


@pytest.mark.parametrize("off", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_the_variables_switch_traces_off(off: dict[str, str]) -> None:
    assert wanted({ENDPOINT: "http://c:4318" if off else "", **off}) == ""


def test_a_queue_that_cannot_be_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")  # a batch of 512 does not fit
    with pytest.raises(SettingsError, match="max_export_batch_size"), traces("test"):
        pass
