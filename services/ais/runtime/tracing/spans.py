"""Spans of traces, as OpenTelemetry has them, across services: from a prompt to the optimizer step.

Off until a process has an exporter (`ais.runtime.tracing.exporter`); a span then costs a comparison, and
OpenTelemetry is not imported. A span's context crosses to another service as a W3C `traceparent`: metadata of a gRPC
call, header of an HTTP request, field of a queue entry.

What a span says is names, numbers and times: never a prompt, a response, a secret or the words of an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanContext, Tracer
    from opentelemetry.trace import Span as OpenTelemetrySpan

TRACEPARENT = "traceparent"
"""Name of the metadata and of the header."""
LONGEST_TRACEPARENT = 55
"""Characters of one of the version that there is."""
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Kind = Literal["internal", "client", "server", "producer", "consumer"]
"""On which side of a border a span is."""
Value = str | int | float | bool

_tracer: Tracer | None = None


class Span:
    """One span that is under way; nothing where traces are off."""

    def __init__(self, span: OpenTelemetrySpan | None = None) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """By which another service's span becomes its child; empty where traces are off."""
        if self._span is None:
            return ""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"

    def tell(self, **attributes: Value) -> None:
        """Adds attributes, each `ais.NAME`."""
        if self._span is not None:
            self._span.set_attributes(_named(attributes))

    def fail(self, why: str) -> None:
        """What it is about came to nothing. `why` is a kind of error, in words of ours."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, why)


_NOTHING: AbstractContextManager[Span] = nullcontext(Span())


def trace_with(tracer: Tracer | None) -> None:
    """Every span from now on is this one's; None: traces are off."""
    global _tracer
    _tracer = tracer


def is_on() -> bool:
    """Whether there are spans."""
    return _tracer is not None


def span(
    name: str,
    kind: Kind = "internal",
    parent: str = "",
    links: Iterable[str] = (),
    **attributes: Value,
) -> AbstractContextManager[Span]:
    """A span as long as the context is open, in which it is the current one; tasks that begin there inherit it.

    `parent` is a traceparent; without one, or where it is none, the span is a child of the current one, or begins a
    trace. `links` are traceparents of other traces that it is about. An error that leaves the context is its end, by
    the name of its class.
    """
    return _NOTHING if _tracer is None else _opened(_tracer, name, kind, parent, links, attributes)


def record(name: str, begin: float, end: float, parent: str, links: Iterable[str] = (), **attributes: Value) -> None:
    """A span of what is over already, in Unix seconds. Nothing where `parent`, a traceparent, is none."""
    if _tracer is None or (context := _context(parent)) is None:
        return
    begun, ended = _nanoseconds(begin), _nanoseconds(max(begin, end))
    _tracer.start_span(name, context, attributes=_named(attributes), links=_links(links), start_time=begun).end(ended)


def current_traceparent() -> str:
    """The current span; empty where there is none."""
    if _tracer is None:
        return ""
    from opentelemetry.trace import get_current_span

    current = get_current_span()
    return Span(current).traceparent if current.get_span_context().is_valid else ""


def carried() -> Mapping[str, str]:
    """What takes the current span to another service, as headers."""
    traceparent = current_traceparent()
    return {TRACEPARENT: traceparent} if traceparent else {}


def is_traceparent(text: str) -> bool:
    """Whether `text` names a span, as version 00 of W3C's Trace Context has it."""
    return _TRACEPARENT.fullmatch(text) is not None


@contextmanager
def _opened(
    tracer: Tracer, name: str, kind: Kind, parent: str, links: Iterable[str], attributes: Mapping[str, Value]
) -> Iterator[Span]:
    from opentelemetry.context import attach, detach
    from opentelemetry.trace import SpanKind, set_span_in_context

    opened = tracer.start_span(
        name, _context(parent), SpanKind[kind.upper()], attributes=_named(attributes), links=_links(links)
    )
    span = Span(opened)
    token = attach(set_span_in_context(opened))
    try:
        yield span
    except BaseException as error:
        span.fail(type(error).__name__)  # what it says may be a peer's words, or a response
        raise
    finally:
        detach(token)
        opened.end()


def _context(traceparent: str) -> Context | None:
    """None: it is no traceparent."""
    if not is_traceparent(traceparent):
        return None
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    return set_span_in_context(NonRecordingSpan(_remote(traceparent)))


def _links(traceparents: Iterable[str]) -> list[Link]:
    from opentelemetry.trace import Link

    return [Link(_remote(traceparent)) for traceparent in traceparents if is_traceparent(traceparent)]


def _remote(traceparent: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    _version, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))


def _named(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {f"ais.{name}": value for name, value in attributes.items()}


def _nanoseconds(time: float) -> int:
    return round(time * 1e9)
