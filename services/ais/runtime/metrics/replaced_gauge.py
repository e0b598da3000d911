"""A gauge about things that come and go, such as replicas: what has left is not shown any more."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Gauge

MOST_SERIES = 256
"""Series of one such gauge; things beyond it are left out, those with the highest values stay."""


class ReplacedGauge:
    """Its series are exactly those that were shown last."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._shown: set[tuple[str, ...]] = set()

    def show(self, values: Mapping[tuple[str, ...], float]) -> None:
        """`values` by the values of the labels."""
        if len(values) > MOST_SERIES:
            values = dict(sorted(values.items(), key=lambda one: one[1], reverse=True)[:MOST_SERIES])
        for gone in self._shown - values.keys():
            self._gauge.remove(*gone)
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        self._shown = set(values)
