"""What vLLM says of its own queues, read off its statistics as they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.registry import Collector
from vllm.v1.metrics.loggers import StatLoggerBase

from ais.rollout.engine import EngineObserver

LONGEST_STEP_SECONDS = 5.0
"""What is longer was no step: the engine was idle or paused."""


class EngineStatistics(StatLoggerBase):
    """One per data-parallel rank, made by vLLM. Called in the event loop after every step."""

    def __init__(self, observer: EngineObserver) -> None:
        self.running = 0
        """Requests that are being sampled."""
        self.waiting = 0
        """Requests in vLLM's queue."""
        self._observer = observer
        self._stepped: float | None = None

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0  # noqa: ARG002
    ) -> None:  # fmt: skip
        if scheduler_stats is not None:
            self.running = scheduler_stats.num_running_reqs
            self.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
        if iteration_stats is None:
            return
        now, tokens = iteration_stats.iteration_timestamp, iteration_stats.num_generation_tokens
        if tokens and self._stepped is not None and now - self._stepped < LONGEST_STEP_SECONDS:
            self._observer.decode_step(now - self._stepped, tokens)
        self._stepped = now if self.running else None

    def log_engine_initialized(self) -> None:
        pass


class VllmMetrics(Collector):
    """vLLM's own metrics, which live in the process-global registry, for a service's registry."""

    def collect(self) -> Iterator[Metric]:
        for metric in REGISTRY.collect():
            if metric.name.startswith("vllm:"):
                yield metric


def expose_vllm_metrics(registry: CollectorRegistry) -> None:
    registry.register(VllmMetrics())
