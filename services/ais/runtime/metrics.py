"""The metrics registry of a service, and how its metrics are made.

The registry is the service's own and not the process-global one, so that tests can have several.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from ais.runtime.network.patience import RETRIES
from ais.runtime.security.certificates import EXPIRY
from ais.runtime.security.refusals import REFUSED
from ais.runtime.strays import STRAYS


class Meter:
    """Makes the metrics of one registry. Units stand in the names, and a label has few values."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """Only rises. Prometheus appends `_total` to the name."""
        return Counter(name, text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """Rises and falls."""
        return Gauge(name, text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float]) -> Histogram:
        """Counts observations up to each of `buckets`, and all of them."""
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)


def service_registry(service: str) -> CollectorRegistry:
    """A registry with what every service measures: its resources and release, retries of Redis, records it
    skipped, callers it refused, its certificates."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(RETRIES)
    registry.register(STRAYS)
    registry.register(REFUSED)
    registry.register(EXPIRY)
    try:
        release = version("ais-rl")
    except PackageNotFoundError:
        release = "unknown"
    build = Meter(registry).gauge(
        "ais_build_info", "Software that runs here; the value is always 1.", ["service", "version"]
    )
    build.labels(service=service, version=release).set(1)
    return registry
