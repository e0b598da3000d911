"""Policy versions as adapters alone: each is made once, for all replicas, in a thread beside training."""

from __future__ import annotations

import asyncio
import logging

from safetensors import SafetensorError

from ais.contracts.weights.adapter import ADAPTER, encode_adapter
from ais.contracts.weights.delta_blocks import DeltaError
from ais.contracts.weights.offer import Identity, Offer, Shard, digest_of_file, sent_name
from ais.runtime.tasks import end_tasks
from ais.trainer.weights.deltas import Origin, Parcel
from ais.trainer.weights.snapshot import Snapshot

logger = logging.getLogger(__name__)


class AdapterMaker:
    """Makes the parcel of the newest version."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._version: Identity | None = None
        self._making: asyncio.Task[Parcel | None] | None = None

    async def parcel(self, snapshot: Snapshot) -> Parcel | None:
        """The version's adapter, once it is written. None: it cannot be; the version must be sent otherwise."""
        if self._making is None or self._version != snapshot.identity:
            self._version = snapshot.identity
            self._making = asyncio.create_task(self._make(snapshot), name=f"adapter of {snapshot.version}")
        return await asyncio.shield(self._making)

    async def close(self) -> None:
        if self._making is not None:
            await end_tasks(self._making)

    async def _make(self, snapshot: Snapshot) -> Parcel | None:
        try:
            return await asyncio.to_thread(adapter, snapshot, self._origin)
        except (DeltaError, SafetensorError, OSError) as error:
            logger.warning("version %d cannot be sent as an adapter, only merged: %s", snapshot.version, error)
            return None


def adapter(snapshot: Snapshot, origin: Origin) -> Parcel:
    """Writes what makes each file of a version that has an adapter. Raises DeltaError, SafetensorError or OSError."""
    assert snapshot.directory is not None
    directory = snapshot.directory.beside("adapter-")
    files = tuple(directory.path / sent_name(one.path.name, ADAPTER) for one in snapshot.files)
    for one, file in zip(snapshot.files, files, strict=True):
        encode_adapter(snapshot.adapter, one.path, file)
    offer = Offer(
        version=snapshot.version,
        run=origin.run,
        incarnation=origin.incarnation,
        digest=snapshot.digest,
        encoding=ADAPTER,
        shards=tuple(
            Shard(
                name=one.path.name,
                size=one.size,
                digest=one.digest,
                sent_size=file.stat().st_size,
                sent_digest=digest_of_file(file),
            )
            for one, file in zip(snapshot.files, files, strict=True)
        ),
    )
    return Parcel(offer, files, snapshot, directory)
