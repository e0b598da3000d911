"""`python -m ais.rollout -c FILE`: one rollout replica."""

from __future__ import annotations

import asyncio

from ais.rollout.settings import RolloutProcessSettings
from ais.runtime.process import run_service

LEAVE_SECONDS = 15.0


async def serve(settings: RolloutProcessSettings, stop: asyncio.Event) -> None:
    from ais.rollout.replica import serve_replica  # torch takes seconds to load: wrong settings fail before that

    await serve_replica(settings, stop)


def stop_seconds(settings: RolloutProcessSettings) -> float:
    """The drain, and time to leave the registry and to end an engine's processes."""
    return settings.rollout.drain_seconds + LEAVE_SECONDS


if __name__ == "__main__":
    run_service("rollout", RolloutProcessSettings, serve, __doc__ or "", stop_seconds)
