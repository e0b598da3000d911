"""What a scrape costs the process that is scraped."""

from __future__ import annotations

import time

import httpx
from prometheus_client import CollectorRegistry

from ais.runtime.network.http import application
from benchmarks.observing.turns import COST_LIMIT
from benchmarks.support.report import Figure, figure

SCRAPE_SECONDS = 5.0
"""Between two, as in deploy/prometheus/prometheus.yml."""
SCRAPES = 50


async def scraping_cost(registry: CollectorRegistry) -> Figure:
    """As a share of one processor, while it is scraped for ever; the caller's part is included."""
    transport = httpx.ASGITransport(application("benchmark", registry, lambda: None))
    headers = {"accept": "application/openmetrics-text"}
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client:
        (await client.get("/metrics")).raise_for_status()
        begin = time.process_time()
        for _scrape in range(SCRAPES):
            await client.get("/metrics")
        seconds = (time.process_time() - begin) / SCRAPES
    return figure(seconds / SCRAPE_SECONDS, "share of a processor", COST_LIMIT)
