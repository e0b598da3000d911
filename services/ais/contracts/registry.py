"""The replica registry: each replica keeps a record alive in Redis; whoever needs replicas reads the live ones.

A replica that dies stops its heartbeat and its record expires: nobody has to notice and clean up. A record that cannot
be read, or says what no replica can be, is that peer's fault alone: readers skip it.
"""

from __future__ import annotations

import re
from typing import Annotated, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
)
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.limits import HIGHEST_VERSION
from ais.contracts.sampling import Precision
from ais.runtime.strays import Strays
from ais.runtime.text import printable

HEARTBEAT_SECONDS = 1.0
"""How often a replica renews its record."""
EXPIRY_SECONDS = 5.0
"""A record not renewed for this long is gone: four heartbeats may be late."""
LARGEST_RECORD_BYTES = 16_384
"""A record has about 600."""
REPLICA = "rollout"
"""The name in the certificate of every replica, whatever its address."""
MOST_SEQUENCES = 1_000_000
"""Sequences that one replica can hold."""

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}(%[\w.-]{1,32})?\]|[A-Za-z0-9._-]{1,253}):(\d{1,5})")


def _plain(text: str) -> str:
    if text.isprintable():
        return text
    raise ValueError("expected printable characters")


def _address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match[3]) <= 65_535:
        raise ValueError("expected host:port with a port from 1 to 65535, such as 10.0.0.7:50051 or [::1]:50051")
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)  # an IPv6 address that is none raises ValueError here, a port out of range below
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0 or parts.username is not None:
        raise ValueError("expected http://host:port")
    return text


Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_plain)]
Text = Annotated[str, Field(max_length=256), AfterValidator(_plain)]
Nats = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Sequences = Annotated[int, Field(ge=0, le=MOST_SEQUENCES)]


class ReplicaRecord(BaseModel):
    """What a replica says about itself."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    replica_id: Name
    """Unique name; a restarted process takes a new one."""
    grpc_address: Annotated[Name, AfterValidator(_address)]
    """host:port of the generation API, reachable by the collector."""
    http_url: Annotated[Name, AfterValidator(_url)]
    """Base URL of the control API, reachable by the trainer."""
    engine: Text
    precision: Precision
    model_type: Text
    vocab_size: int = Field(ge=1, le=2**31)
    parameter_count: int = Field(ge=0, le=HIGHEST_VERSION)
    policy_version: int = Field(ge=0, lt=HIGHEST_VERSION)
    """Version served now."""
    policy_digest: Text
    """Content digest of that version."""
    ready: bool
    """Accepts generation calls; false while loading or draining."""
    slots: int = Field(ge=1, le=MOST_SEQUENCES)
    """Sequences it can sample at once."""
    running_sequences: Sequences
    waiting_sequences: Sequences
    probe_gap: Nats | None = None
    """Mean |log-prob difference| to the trainer on the served version's probe, a token. None: it came without one."""
    probe_allowed: Nats | None = None
    """The gap beyond which the replica would have refused that version."""

    @field_validator("precision", mode="before")
    @classmethod
    def _without_what_is_not_known(cls, precision: object) -> object:
        if not isinstance(precision, dict):
            return precision
        return {name: value for name, value in precision.items() if name in Precision.model_fields}

    @field_serializer("precision", when_used="json")
    def _without_what_is_new_and_not_used(self, precision: Precision) -> dict[str, object]:
        # The release before this one skips a record whose precision has a field that it does not know.
        return precision.known_before


class ReplicaRegistry:
    """One run's registry."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._strays = Strays("replica")
        self._decoded: dict[bytes, tuple[bytes, ReplicaRecord | None]] = {}
        """By name, what was read last: a record changes once a heartbeat, and some read it fifty times a second."""

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
        """Live replicas, by id. Forgets the names of those whose record has expired, and skips what is no record."""
        names = sorted(cast(set[bytes], await self._redis.smembers(self._keys.replicas)))
        if not names:
            return []
        prefix = self._keys.replica("").encode()
        values = cast(list[bytes | None], await self._redis.mget([prefix + name for name in names]))
        records = dict(zip(names, values, strict=True))
        if expired := [name for name, value in records.items() if value is None]:
            await self._redis.srem(self._keys.replicas, *expired)
        self._decoded = {name: self._read(name, value) for name, value in records.items() if value is not None}
        return [record for _value, record in self._decoded.values() if record is not None]

    async def urls(self) -> list[str]:
        """Base URLs of the control APIs of live replicas."""
        return [record.http_url for record in await self.replicas()]

    def _read(self, name: bytes, value: bytes) -> tuple[bytes, ReplicaRecord | None]:
        known = self._decoded.get(name)
        if known is not None and known[0] == value:
            return known
        try:
            record = decode_record(name, value)
        except StrayRecordError as error:
            self._strays.skip(name, str(error))
            return value, None
        self._strays.forget(name)
        return value, record


class StrayRecordError(ValueError):
    """A record that no replica of this release has written."""


def decode_record(name: bytes, value: bytes) -> ReplicaRecord:
    """The record kept under `name`. Raises StrayRecordError with the field and the reason."""
    if len(value) > LARGEST_RECORD_BYTES:
        raise StrayRecordError(f"expected up to {LARGEST_RECORD_BYTES} bytes, got {len(value)}")
    try:
        record = ReplicaRecord.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "record"
        raise StrayRecordError(f"{field}: {first['msg']}, got {printable(repr(first['input']), 100)}") from error
    if record.replica_id.encode() != name:
        raise StrayRecordError(f"replica_id: the record is that of {record.replica_id}")
    return record
