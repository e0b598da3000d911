"""`python -m ais.collector.agent -c FILE`: gets episodes from the collector, and starts a program for each."""

from __future__ import annotations

from ais.collector.agent.service import play_episodes
from ais.collector.agent.settings import AgentProcessSettings
from ais.runtime.process import run_service

STOP_SECONDS = 10.0
"""It gives its episodes back, and ends its programs."""

if __name__ == "__main__":
    run_service(
        "agent", AgentProcessSettings, play_episodes, __doc__ or "", stop_seconds=lambda _settings: STOP_SECONDS
    )
