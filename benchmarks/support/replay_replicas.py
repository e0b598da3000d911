"""`python -m benchmarks.support.replay_replicas -c FILE`: `rollout.replicas` whole replicas in one process.

Each has its own gRPC and HTTP server, connection to Redis, record and heartbeat. In processes of their own, 64 replicas
would take 64 interpreters of 70 MB.
"""

from __future__ import annotations

import asyncio

from ais.rollout.replica import serve_replica
from ais.rollout.settings import RolloutProcessSettings
from ais.runtime.process import run_service


async def serve_many(settings: RolloutProcessSettings, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as replicas:
        for _ in range(settings.rollout.replicas):
            replicas.create_task(serve_replica(settings, stop))


if __name__ == "__main__":
    run_service(
        "rollout",
        RolloutProcessSettings,
        serve_many,
        __doc__ or "",
        stop_seconds=lambda settings: settings.rollout.drain_seconds + 15.0,
    )
