"""A histogram that takes in observations by the batch, counted already: single ones would be too many.

Its buckets are classic ones. prometheus-client 0.26 makes no native histograms, and Prometheus 2 takes those by
protobuf only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class BulkHistogram(Collector):
    """Cumulative counts up to each bound, and the sum of what was observed, by label values."""

    def __init__(
        self,
        name: str,
        meaning: str,
        labels: tuple[str, ...],
        bounds: tuple[float, ...],
        known: Iterable[tuple[str, ...]] = (),
    ) -> None:
        """`bounds` rise; the one above all is added. `known`: label values of series that exist from the start."""
        self._name, self._meaning, self._labels, self.bounds = name, meaning, labels, bounds
        self._counts: dict[tuple[str, ...], tuple[list[float], float]] = {}
        for values in known if labels else [()]:
            self._counts[values] = ([0.0] * (len(bounds) + 1), 0.0)

    def add(self, counts: Sequence[float], total: float, *labels: str) -> None:
        """`counts`: observations in each bucket, the last one for all beyond the bounds; `total`: their sum."""
        if len(counts) != len(self.bounds) + 1:
            raise ValueError(f"expected {len(self.bounds) + 1} counts, got {len(counts)}")
        before, sum_before = self._counts.get(labels, ([0.0] * len(counts), 0.0))
        self._counts[labels] = ([old + new for old, new in zip(before, counts, strict=True)], sum_before + total)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        for values, (counts, total) in self._counts.items():
            # Beside buckets below 0 the family leaves the sum out, as OpenMetrics wants: it could fall.
            family.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total)
        return [family]
