"""The replicas of a run, as the registry knows them."""

from __future__ import annotations

import asyncio
import contextlib

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry

POLL_SECONDS = 0.2


class Fleet:
    """Follows the replicas of one run. While the server does not answer, or not readably, the last answer stands."""

    def __init__(self, redis: Redis, run_name: str) -> None:
        self._registry = ReplicaRegistry(redis, Keys(run_name))
        self._ready: list[ReplicaRecord] = []

    async def ready(self) -> list[ReplicaRecord]:
        """Replicas that take generation calls now."""
        with contextlib.suppress(RedisError, OSError, ValueError):
            self._ready = [record for record in await self._registry.replicas() if record.ready]
        return self._ready

    async def first_ready(self) -> ReplicaRecord:
        """Waits for ever for a replica that takes calls."""
        while True:
            if ready := await self.ready():
                return ready[0]
            await asyncio.sleep(POLL_SECONDS)
