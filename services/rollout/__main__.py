"""`python -m services.rollout -c FILE`: one rollout replica."""

from __future__ import annotations

import asyncio

from services.rollout.settings import RolloutProcessSettings
from services.runtime.process import run_service


async def serve(settings: RolloutProcessSettings, stop: asyncio.Event) -> None:
    from services.rollout.replica import serve_replica  # torch takes seconds to load: wrong settings fail before that

    await serve_replica(settings, stop)


if __name__ == "__main__":
    run_service("rollout", RolloutProcessSettings, serve, __doc__ or "")
