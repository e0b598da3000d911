"""Metrics as text, made once for all who have asked before: many scrapes at once cost little more than one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics


@dataclass(frozen=True)
class Exposed:
    """What a caller gets."""

    content: bytes
    media_type: str


class Exposition:
    """Makes the text of a registry, in the event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._coming: dict[bool, asyncio.Task[Exposed]] = {}

    async def read(self, accept: str) -> Exposed:
        """As OpenMetrics or as Prometheus' text, by the caller's `Accept`. It is made after the call, never before."""
        as_openmetrics = "application/openmetrics-text" in accept
        if as_openmetrics not in self._coming:
            self._coming[as_openmetrics] = asyncio.create_task(self._make(as_openmetrics))
        return await asyncio.shield(self._coming[as_openmetrics])

    async def _make(self, as_openmetrics: bool) -> Exposed:
        await asyncio.sleep(0)  # requests that have arrived by now come first, and share it
        del self._coming[as_openmetrics]
        # By default a name with a colon, such as those of vLLM, keeps it in HELP and loses it in the samples.
        if as_openmetrics:
            return Exposed(openmetrics(self._registry, escaping=ALLOWUTF8), OPENMETRICS)  # type: ignore[no-untyped-call]
        return Exposed(generate_latest(self._registry, escaping=ALLOWUTF8), CONTENT_TYPE_PLAIN_0_0_4)
