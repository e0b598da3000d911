"""`python -m ais.collector -c FILE`: prompts to replicas to rewards to queue."""

from __future__ import annotations

from ais.collector.prompts.tokenizer import run_without_torch
from ais.collector.service import collect
from ais.collector.settings import CollectorProcessSettings
from ais.runtime.process import run_service

if __name__ == "__main__":
    run_without_torch()
    run_service("collector", CollectorProcessSettings, collect, __doc__ or "")
