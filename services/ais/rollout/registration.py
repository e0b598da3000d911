"""The heartbeat that keeps a replica's record in the registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from ais.contracts.registry import EXPIRY_SECONDS, HEARTBEAT_SECONDS, ReplicaRecord, ReplicaRegistry
from ais.rollout.engine import Engine
from ais.rollout.metrics import RolloutMetrics
from ais.rollout.settings import RolloutSettings
from ais.runtime.network.addresses import authority, http_url

logger = logging.getLogger(__name__)


class Registration:
    """Tells the registry about this replica, each second and whenever `changed` is called."""

    def __init__(self, registry: ReplicaRegistry, record: Callable[[], ReplicaRecord], metrics: RolloutMetrics) -> None:
        self._registry = registry
        self._record = record
        self._metrics = metrics
        self._changed = asyncio.Event()
        self.failure: str | None = "not registered yet"
        """Why the registry does not know this replica, or None."""

    def changed(self) -> None:
        """The record differs from the last one in a way that others should not wait a second for."""
        self._changed.set()

    async def keep(self) -> None:
        """Renews the record until cancelled. A registry that is away is tried again each second."""
        while True:
            self._changed.clear()
            await self.beat()
            try:
                await asyncio.wait_for(self._changed.wait(), HEARTBEAT_SECONDS)
            except TimeoutError:
                continue

    async def beat(self) -> None:
        """One heartbeat, whether it succeeds or not. It takes no longer than a record lives."""
        try:
            async with asyncio.timeout(EXPIRY_SECONDS):
                await self._registry.heartbeat(self._record())
        except (RedisError, TimeoutError) as error:
            reason = f"the registry cannot be reached: {error or 'no answer in time'}"
            if self.failure is None:
                logger.warning("%s", reason)
            self.failure = reason
            self._metrics.heartbeat_failures.inc()
        else:
            if self.failure is not None:
                logger.info("the registry knows this replica")
            self.failure = None

    async def leave(self) -> None:
        """Takes the record away, if the registry can be reached."""
        try:
            async with asyncio.timeout(EXPIRY_SECONDS):
                await self._registry.leave(self._record().replica_id)
        except (RedisError, TimeoutError) as error:
            logger.warning("the record stays in the registry until it expires: %s", error or "no answer in time")


def replica_record(
    engine: Engine,
    settings: RolloutSettings,
    replica_id: str,
    grpc_port: int,
    http_port: int,
    ready: bool,
    tls: bool = False,
    probe_gap: float | None = None,
    probe_allowed: float | None = None,
) -> ReplicaRecord:
    """What this replica says about itself now.

    `tls`: it is reached by HTTPS. `probe_gap`, `probe_allowed`: of the served version, nats a token.
    """
    description, load = engine.describe(), engine.load()
    return ReplicaRecord(
        replica_id=replica_id,
        grpc_address=authority(settings.reachable_host, grpc_port),
        http_url=http_url(settings.reachable_host, http_port, tls),
        engine=description.engine,
        precision=description.precision,
        model_type=description.model_type,
        vocab_size=description.vocab_size,
        parameter_count=description.parameter_count,
        policy_version=description.version,
        policy_digest=description.digest,
        ready=ready,
        slots=load.slots,
        running_sequences=load.running_sequences,
        waiting_sequences=load.waiting_sequences,
        probe_gap=probe_gap,
        probe_allowed=probe_allowed,
    )
