"""How many spans were sent, and how many were not. Every service has the metric, whether it traces or not."""

from __future__ import annotations

from ais.runtime.metrics.meter import Meter

METER = Meter(None)
SPANS = METER.counter(  # every service's registry has it: ais.runtime.metrics.registry
    "ais_trace_spans",
    "Spans of traces by what became of them: sent, not_sent (the collector was away or refused them), queue_full (they "
    "came faster than they are sent).",
    "not_sent: is OTEL_EXPORTER_OTLP_ENDPOINT right, and its collector up? The service's log names the first failure. "
    "queue_full: the same, or a lower OTEL_TRACES_SAMPLER_ARG. The run does not wait for spans; traces have holes.",
    {"outcome": ("sent", "not_sent", "queue_full")},
)
