"""The run's replicas as the collector sees them: who is there, who gets the next group, a connection to each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from ais.collector.dispatch import Dispatcher
from ais.collector.generation import GenerationClient
from ais.collector.metrics import CollectorMetrics
from ais.contracts.registry import ReplicaRecord, ReplicaRegistry

POLL_SECONDS = 0.25
"""How often the registry is read while every open group has found a replica, or waits for room on one."""
URGENT_POLL_SECONDS = 0.02
"""How often it is read while a group waits for a replica or for one's next version: a swap takes milliseconds."""

logger = logging.getLogger(__name__)


class Fleet:
    """Follows the registry. Single-threaded, like the collector it belongs to."""

    def __init__(
        self,
        registry: ReplicaRegistry,
        queue_factor: float,
        metrics: CollectorMetrics,
        changed: Callable[[], None],
        use_proxy: bool = False,
    ) -> None:
        """`changed` is called when the registry has been read: a group that waits may find a replica now."""
        self._registry = registry
        self._metrics = metrics
        self._changed = changed
        self._use_proxy = use_proxy
        self._clients: dict[str, GenerationClient] = {}
        self._wanted = asyncio.Event()
        self._away = False
        self.dispatcher = Dispatcher(queue_factor)
        self.replicas: list[ReplicaRecord] = []
        """As the registry had them when it was last read."""

    async def follow(self) -> None:
        """Reads the registry until cancelled."""
        while True:
            await self._read()
            self._changed()
            await asyncio.sleep(URGENT_POLL_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS - URGENT_POLL_SECONDS):
                    await self._wanted.wait()

    def choose(
        self, sequences: int, required_version: int, newest_version: int, avoid: str | None
    ) -> ReplicaRecord | None:
        """The replica for a group, see Dispatcher. Where none may take it at all, the registry is read more often.

        Only those are asked whose version the trainer has announced, up to `newest_version`. One that is ahead has its
        version from a trainer that died: the trainer that resumed will bring it back.
        """
        known = [replica for replica in self.replicas if replica.policy_version <= newest_version]
        chosen = self.dispatcher.choose(known, sequences, required_version, time.monotonic(), avoid)
        if chosen or any(self.dispatcher.may_sample(replica, required_version) for replica in known):
            self._wanted.clear()
        else:
            self._wanted.set()
        return chosen

    def client(self, replica: ReplicaRecord) -> GenerationClient:
        """The connection to a replica, opened at its first use."""
        if replica.replica_id not in self._clients:
            self._clients[replica.replica_id] = GenerationClient(replica.grpc_address, self._use_proxy)
        return self._clients[replica.replica_id]

    async def close(self) -> None:
        """Closes every connection; calls that still run fail."""
        for client in self._clients.values():
            await client.close()

    async def _read(self) -> None:
        try:
            self.replicas = await self._registry.replicas()
        except RedisError as error:
            if not self._away:
                logger.warning("cannot read the registry, keeping the last list: %s", error)
            self._away = True
            return
        if self._away:
            logger.info("the registry can be read again")
        self._away = False
        self._metrics.replicas.set(sum(replica.ready for replica in self.replicas))
        alive = {replica.replica_id for replica in self.replicas}
        self.dispatcher.forget_except(alive)
        for replica_id in [name for name, client in self._clients.items() if name not in alive and not client.calls]:
            await self._clients.pop(replica_id).close()
