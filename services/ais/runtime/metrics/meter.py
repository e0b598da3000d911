"""How metrics are made, and described: what each means and what to do when it looks wrong stand beside each other.

`docs/metrics.md` is made of these descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ais.runtime.metrics.bulk_histogram import BulkHistogram
from ais.runtime.metrics.replaced_gauge import ReplacedGauge

Labels = Mapping[str, Sequence[str]]
"""Names of labels, and the values that each has from the start; none: values are known only as they come."""

UNLABELLED: Labels = {}

_UNITS = {
    "seconds": "seconds",
    "bytes": "bytes",
    "nats": "nats",
    "tokens": "tokens",
    "groups": "groups",
    "sequences": "sequences",
    "versions": "versions",
    "steps": "steps",
    "ratio": "share, 0 to 1",
    "share": "share, 0 to 1",
    "info": "always 1",
}
"""What the last word of a name says about the unit."""


@dataclass(frozen=True)
class Described:
    """One metric as a person reads about it."""

    name: str
    """As Prometheus shows it: a counter ends in `_total`."""
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    meaning: str
    cure: str
    """What to do when it looks wrong."""

    @property
    def unit(self) -> str:
        """By the name, as Prometheus wants it; empty for plain numbers."""
        return _UNITS.get(self.name.removesuffix("_total").rpartition("_")[2], "")


class Meter:
    """Makes the metrics of one registry. Units stand in the names, and a label has few values.

    Series of labels whose values are known exist from the start: the first failure is a rise from 0, which `increase`
    sees, and not a series that begins.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        """None: the metrics are registered by whoever wants them."""
        self._registry = registry
        self.described: list[Described] = []

    def counter(self, name: str, meaning: str, cure: str, labels: Labels = UNLABELLED) -> Counter:
        """Only rises. Prometheus appends `_total` to the name."""
        self.described.append(Described(f"{name}_total", "counter", labels, meaning, cure))
        counter = Counter(name, meaning, list(labels), registry=self._registry)
        for values in _known(labels):
            counter.labels(*values)
        return counter

    def gauge(self, name: str, meaning: str, cure: str, labels: Labels = UNLABELLED) -> Gauge:
        """Rises and falls."""
        self.described.append(Described(name, "gauge", labels, meaning, cure))
        gauge = Gauge(name, meaning, list(labels), registry=self._registry)
        for values in _known(labels):
            gauge.labels(*values)
        return gauge

    def replaced_gauge(self, name: str, meaning: str, cure: str, labels: Labels) -> ReplacedGauge:
        """Its series are always those that were shown last."""
        return ReplacedGauge(self.gauge(name, meaning, cure, labels))

    def histogram(
        self, name: str, meaning: str, cure: str, labels: Labels = UNLABELLED, *, buckets: Sequence[float]
    ) -> Histogram:
        """Counts observations up to each of `buckets`, and all of them."""
        self.described.append(Described(name, "histogram", labels, meaning, cure))
        histogram = Histogram(name, meaning, list(labels), buckets=buckets, registry=self._registry)
        for values in _known(labels):
            histogram.labels(*values)
        return histogram

    def bulk_histogram(
        self, name: str, meaning: str, cure: str, labels: Labels = UNLABELLED, *, buckets: Sequence[float]
    ) -> BulkHistogram:
        """Takes in observations that are counted already, many at once."""
        self.described.append(Described(name, "histogram", labels, meaning, cure))
        histogram = BulkHistogram(name, meaning, tuple(labels), tuple(buckets), list(_known(labels)))
        if self._registry is not None:
            self._registry.register(histogram)
        return histogram


def _known(labels: Labels) -> Iterator[tuple[str, ...]]:
    """The label values of the series that exist from the start."""
    return product(*labels.values()) if labels else iter(())
