"""`python -m ais.rollout -c FILE`: one rollout replica."""

from __future__ import annotations

import asyncio

from ais.rollout.settings import RolloutProcessSettings
from ais.runtime.process import run_service


async def serve(settings: RolloutProcessSettings, stop: asyncio.Event) -> None:
    from ais.rollout.replica import serve_replica  # torch takes seconds to load: wrong settings fail before that

    await serve_replica(settings, stop)


if __name__ == "__main__":
    run_service("rollout", RolloutProcessSettings, serve, __doc__ or "")
