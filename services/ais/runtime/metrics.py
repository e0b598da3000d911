"""The metrics registry of a service: its own, not the process-global one, so that tests can have several."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from ais.runtime.patience import RETRIES
from ais.runtime.strays import STRAYS


def service_registry(service: str) -> CollectorRegistry:
    """A registry with what every service measures: its resources and release, retries of Redis, records it skipped."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(RETRIES)
    registry.register(STRAYS)
    try:
        release = version("ais-rl")
    except PackageNotFoundError:
        release = "unknown"
    build = Gauge(
        "ais_build_info", "Software that runs here; the value is always 1.", ["service", "version"], registry=registry
    )
    build.labels(service=service, version=release).set(1)
    return registry
