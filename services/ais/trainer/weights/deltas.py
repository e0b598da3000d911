"""Deltas between policy versions: each is computed once, for all replicas, in a thread beside training."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from ais.contracts.weights.delta import EncodedDelta, encode_delta
from ais.contracts.weights.delta_blocks import DeltaError
from ais.contracts.weights.offer import Base, Identity, Offer, Shard, sent_name
from ais.runtime.owned_directory import OwnedDirectory
from ais.runtime.tasks import end_tasks
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.weights.forms import FormMaker
from ais.trainer.weights.snapshot import Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parcel:
    """A version as it is sent. Its files stay as long as the object does."""

    offer: Offer
    files: tuple[Path, ...]
    """What is sent of each shard."""
    snapshot: Snapshot
    """Keeps the files of a full version."""
    directory: OwnedDirectory | None = field(default=None, repr=False, compare=False)
    """Keeps the files of a delta or an adapter."""


@dataclass(frozen=True)
class Origin:
    """Where offers come from."""

    run: str = ""
    """Identity of the run; empty: any run's."""
    incarnation: int = 0
    """Which start of the run's trainer this is."""


def full(snapshot: Snapshot, origin: Origin) -> Parcel:
    """The files of a version, as they are."""
    shards = tuple(
        Shard(name=one.path.name, size=one.size, digest=one.digest, sent_size=one.size, sent_digest=one.digest)
        for one in snapshot.files
    )
    offer = Offer(
        version=snapshot.version,
        run=origin.run,
        incarnation=origin.incarnation,
        digest=snapshot.digest,
        encoding="full",
        form=snapshot.form,
        shards=shards,
    )
    return Parcel(offer, tuple(one.path for one in snapshot.files), snapshot)


class DeltaMaker:
    """Makes the parcels of the newest version."""

    def __init__(self, forms: FormMaker, origin: Origin, threads: int, metrics: TrainerMetrics) -> None:
        self._forms = forms
        self._origin = origin
        self._threads = threads
        self._metrics = metrics
        self._pair: tuple[Identity, Identity] | None = None
        self._making: dict[str, asyncio.Task[Parcel | None]] = {}
        """By form."""

    def start(self, base: Snapshot, new: Snapshot, form: str) -> None:
        """Begins to compute one, unless it is under way or done. What was computed of other versions is forgotten."""
        if self._pair != (base.identity, new.identity):
            self._pair = (base.identity, new.identity)
            self._making = {}
        if form not in self._making:
            name = f"delta {base.version} to {new.version} in {form}"
            self._making[form] = asyncio.create_task(self._make(base, new, form), name=name)

    async def parcel(self, base: Identity, new: Identity, form: str) -> Parcel | None:
        """The delta, once it is computed. None: there is none between these two, or it is not smaller."""
        if self._pair != (base, new) or form not in self._making:
            return None
        return await asyncio.shield(self._making[form])

    async def close(self) -> None:
        await end_tasks(*self._making.values())

    async def _make(self, base: Snapshot, new: Snapshot, form: str) -> Parcel | None:
        base, new = await self._forms.of(base, form), await self._forms.of(new, form)
        if (base.form, new.form) != (form, form):
            return None
        begin = time.perf_counter()
        try:
            parcel = await asyncio.to_thread(delta, base, new, self._origin, self._threads)
        except (DeltaError, OSError) as error:
            logger.warning("no delta from version %d to %d: %s", base.version, new.version, error)
            return None
        self._metrics.weights.delta_seconds.observe(time.perf_counter() - begin)
        self._metrics.weights.delta_ratio.set(parcel.offer.sent_bytes / new.size)
        return parcel if parcel.offer.sent_bytes < new.size else None


def delta(base: Snapshot, new: Snapshot, origin: Origin, threads: int) -> Parcel:
    """Computes and proves the delta of every file. Raises DeltaError when the two differ in more than their values."""
    if [one.path.name for one in base.files] != [one.path.name for one in new.files]:
        raise DeltaError(f"expected {len(base.files)} files as in version {base.version}, got {len(new.files)}")
    assert new.directory is not None
    directory = new.directory.beside("delta-")
    files = [directory.path / sent_name(one.path.name, "delta") for one in new.files]
    coded = [
        encode_delta(old.path, one.path, file, one.digest, threads)
        for old, one, file in zip(base.files, new.files, files, strict=True)
    ]
    offer = Offer(
        version=new.version,
        run=origin.run,
        incarnation=origin.incarnation,
        digest=new.digest,
        encoding="delta",
        form=new.form,
        base=Base(version=base.version, digest=base.digest),
        shards=_shards(new, coded),
    )
    return Parcel(offer, tuple(files), new, directory)


def _shards(new: Snapshot, coded: list[EncodedDelta]) -> tuple[Shard, ...]:
    return tuple(
        Shard(name=one.path.name, size=one.size, digest=one.digest, sent_size=sent.size, sent_digest=sent.digest)
        for one, sent in zip(new.files, coded, strict=True)
    )
