"""The replica registry: each replica keeps a record alive in Redis; whoever needs replicas reads the live ones.

A replica that dies stops its heartbeat and its record expires: nobody has to notice and clean up.
"""

from __future__ import annotations

import logging
from typing import cast

from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.sampling import Precision

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
"""How often a replica renews its record."""
EXPIRY_SECONDS = 5.0
"""A record not renewed for this long is gone: four heartbeats may be late."""


class ReplicaRecord(BaseModel):
    """What a replica says about itself."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    replica_id: str
    """Unique name; a restarted process takes a new one."""
    grpc_address: str
    """host:port of the generation API, reachable by the collector."""
    http_url: str
    """Base URL of the control API, reachable by the trainer."""
    engine: str
    precision: Precision
    model_type: str
    vocab_size: int
    parameter_count: int
    policy_version: int
    """Version served now."""
    policy_digest: str
    """Content digest of that version."""
    ready: bool
    """Accepts generation calls; false while loading or draining."""
    slots: int
    """Sequences it can sample at once."""
    running_sequences: int
    waiting_sequences: int


class ReplicaRegistry:
    """One run's registry."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._decoded: dict[bytes, ReplicaRecord | None] = {}
        """What was read last: a record changes once a heartbeat, and some read it fifty times a second."""

    async def heartbeat(self, record: ReplicaRecord) -> None:
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.sadd(self._keys.replicas, record.replica_id)
            pipeline.set(self._keys.replica(record.replica_id), record.model_dump_json(), px=int(EXPIRY_SECONDS * 1000))
            await pipeline.execute()

    async def leave(self, replica_id: str) -> None:
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.srem(self._keys.replicas, replica_id)
            pipeline.delete(self._keys.replica(replica_id))
            await pipeline.execute()

    async def replicas(self) -> list[ReplicaRecord]:
        """Live replicas, by id. Forgets the names of those whose record has expired."""
        names = sorted(cast(set[bytes], await self._redis.smembers(self._keys.replicas)))
        if not names:
            return []
        values = cast(list[bytes | None], await self._redis.mget([self._keys.replica(n.decode()) for n in names]))
        expired = [name for name, value in zip(names, values, strict=True) if value is None]
        if expired:
            await self._redis.srem(self._keys.replicas, *expired)
        known = self._decoded
        self._decoded = {
            value: known[value] if value in known else _decode(value) for value in values if value is not None
        }
        return [record for record in self._decoded.values() if record is not None]


def _decode(value: bytes) -> ReplicaRecord | None:
    """A record that cannot be read belongs to a replica of another release, which is left alone."""
    try:
        return ReplicaRecord.model_validate_json(value)
    except ValidationError as error:
        logger.warning("a replica's record is not understood and left out: %s", error)
        return None
