"""The metrics registry of a service: what every service measures, beside what is its own.

The registry is the service's own and not the process-global one, so that tests can have several.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics

from ais.runtime import strays
from ais.runtime.metrics.meter import Described, Meter
from ais.runtime.network import patience
from ais.runtime.security import expiry, refusals
from ais.runtime.tracing import counting


def service_registry(service: str, run: str = "") -> CollectorRegistry:
    """A registry with what every service measures: its resources and release, retries of Redis, records it
    skipped, callers it refused, its certificates, spans of traces. `run`: name of the run that it works for."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nothing asks for
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for shared in (patience.RETRIES, strays.STRAYS, refusals.REFUSED, expiry.EXPIRY, counting.SPANS):
        registry.register(shared)
    build, of_run = _info(Meter(registry))
    build.labels(service, _release()).set(1)
    of_run.labels(run).set(1)
    return registry


def shared_descriptions() -> list[Described]:
    """What every service measures."""
    _info(own := Meter(None))
    meters = (own, patience.METER, strays.METER, refusals.METER, expiry.METER, counting.METER)
    return [one for meter in meters for one in meter.described]


def _info(meter: Meter) -> tuple[Gauge, Gauge]:
    build = meter.gauge(
        "ais_build_info",
        "Software that runs here; the value is always 1.",
        "Services of one run should have one release: update those that differ.",
        {"service": (), "version": ()},
    )
    of_run = meter.gauge(
        "ais_run_info",
        "The run that the service works for; the value is always 1. Join it: `... and on (job, instance) "
        'ais_run_info{run="demo"}`.',
        "A replica of another run gets no work: correct its run.name.",
        {"run": ()},
    )
    return build, of_run


def _release() -> str:
    try:
        return version("ais-rl")
    except PackageNotFoundError:
        return "unknown"
