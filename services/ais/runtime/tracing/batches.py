"""A bounded queue of spans and the thread that sends them, by OpenTelemetry's packages: needs the extra `traces`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from random import Random

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator

from ais.runtime.tracing.counting import SPANS

MOST_WAITING = 2048
"""Spans that wait, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise: OpenTelemetry's own default."""
TOLD_BY_US = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal")
"""Loggers of the packages that tell each batch and span that is lost: here the first is told, and all are counted."""

logger = logging.getLogger(__name__)


class Batches:
    """Those of one process."""

    def __init__(self, service: str) -> None:
        """`service`: what it is called, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES says otherwise. Raises
        ValueError where another of the variables has a value that cannot be."""
        for name in TOLD_BY_US:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        attributes = {"ais.service": service} | ({} if _is_named(os.environ) else {SERVICE_NAME: f"ais-{service}"})
        resource = Resource.create().merge(Resource(attributes))
        self._provider = TracerProvider(resource=resource, id_generator=_Ids(), shutdown_on_exit=False)
        self._queue = _BoundedQueue(OTLPSpanExporter(), int(os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE) or MOST_WAITING))
        self._provider.add_span_processor(self._queue)
        self.tracer = self._provider.get_tracer("ais")

    @property
    def waiting(self) -> int:
        """Spans that are neither sent nor given up."""
        return self._queue.waiting

    def flush(self) -> None:
        """Sends what waits now; returns when it is taken or given up."""
        self._provider.force_flush()

    def close(self) -> None:
        """The same, and takes no more; returns when it is taken or given up."""
        self._provider.shutdown()


class _BoundedQueue(BatchSpanProcessor):
    """Counts what it does not take because it is full."""

    def __init__(self, exporter: SpanExporter, most: int) -> None:
        super().__init__(_CountedSending(exporter, self._over), max_queue_size=most)
        self._most = most
        self._lock = threading.Lock()
        self.waiting = 0

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            if full := self.waiting >= self._most:
                SPANS.labels("queue_full").inc()
            else:
                self.waiting += 1
        if not full:
            super().on_end(span)

    def _over(self, spans: int) -> None:
        with self._lock:
            self.waiting -= spans


class _CountedSending(SpanExporter):
    """Counts what was sent and what was not; of failures one after the other the first is told."""

    def __init__(self, exporter: SpanExporter, over: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._over = over
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._over(len(spans))
            self._tell(result is SpanExportResult.SUCCESS, len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def _tell(self, sent: bool, spans: int) -> None:
        SPANS.labels("sent" if sent else "not_sent").inc(spans)
        if not sent and not self._failing:
            logger.warning("traces have holes: the collector does not take %d spans (further ones are counted)", spans)
        if sent and self._failing:
            logger.info("the collector takes spans again")
        self._failing = not sent


class _Ids(IdGenerator):
    """Random names. The package's own draws them from the generator that others in the process seed and rely on."""

    def __init__(self) -> None:
        self._random = Random()

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1

    def is_trace_id_random(self) -> bool:
        return True


def _is_named(environment: Mapping[str, str]) -> bool:
    named = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(environment.get("OTEL_SERVICE_NAME")) or "service.name=" in named
