"""`python -m ais.collector -c FILE`: prompts to replicas to rewards to queue."""

from __future__ import annotations

from ais.collector.prompts.tokenizer import run_without_torch
from ais.collector.service import collect
from ais.collector.settings import CollectorProcessSettings
from ais.runtime.process import run_service

STOP_SECONDS = 12.0
"""It has nothing to finish. Compose kills it after 15 s."""

if __name__ == "__main__":
    run_without_torch()
    run_service(
        "collector", CollectorProcessSettings, collect, __doc__ or "", stop_seconds=lambda _settings: STOP_SECONDS
    )
