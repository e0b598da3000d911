"""An OpenTelemetry collector for tests: it takes spans by OTLP over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came."""

    service: str
    """Name of the service, as its resource says it."""
    name: str
    trace: str
    id: str
    parent: str
    """Empty: it begins its trace."""
    begin: float
    end: float
    """Unix seconds."""
    attributes: Mapping[str, str | int | float | bool]
    linked: frozenset[str]
    """Traces that it is linked to."""
    failed: str | None
    """What its status says where that is an error."""


@dataclass
class Receiver:
    """What has come so far."""

    url: str
    spans: list[ReceivedSpan] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    """The requests' bodies."""

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]

    def trace(self, trace: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.trace == trace]

    def take(self, body: bytes) -> None:
        """One request."""
        self.raw.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = str(_values(list(resource.resource.attributes))["service.name"])
            for scope in resource.scope_spans:
                self.spans += [_received(service, message) for message in scope.spans]


def _received(service: str, message: Message) -> ReceivedSpan:
    return ReceivedSpan(
        service=service,
        name=message.name,
        trace=message.trace_id.hex(),
        id=message.span_id.hex(),
        parent=message.parent_span_id.hex(),
        begin=message.start_time_unix_nano / 1e9,
        end=message.end_time_unix_nano / 1e9,
        attributes=_values(list(message.attributes)),
        linked=frozenset(link.trace_id.hex() for link in message.links),
        failed=message.status.message if message.status.code == Status.STATUS_CODE_ERROR else None,
    )


def _values(attributes: list[KeyValue]) -> dict[str, str | int | float | bool]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            receiver.take(self.rfile.read(int(self.headers["Content-Length"])))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_arguments: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
