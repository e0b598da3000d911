"""Makes trained batches durable while training goes on, and only then lets the queue forget their groups.

1. Between two steps the training state is copied.
2. In the background the copy is written and the steps' records are flushed.
3. The checkpoint is renamed into its place. This is the commit; it gets its line in the ledger.
4. The groups of the checkpoint before are acknowledged.

A trainer that dies at any point leaves a whole checkpoint and, in the queue, every group that is not in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ais.runtime.network.patience import persist
from ais.runtime.tasks import end_tasks
from ais.trainer import record
from ais.trainer.free_memory import give_back_free_memory
from ais.trainer.groups.intake import Buffered
from ais.trainer.groups.reader import GroupReader
from ais.trainer.history import ledger
from ais.trainer.history.checkpoint import TRAINING_DIRECTORY, CheckpointStore, Manifest
from ais.trainer.history.lease import Lease
from ais.trainer.learning.conductor import Conductor
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.settings import Settings
from ais.trainer.weights.snapshot import Snapshot

logger = logging.getLogger(__name__)


@dataclass
class _Consumed:
    """Groups trained since the last checkpoint began."""

    group_ids: list[str] = field(default_factory=list)
    entries: dict[str, int] = field(default_factory=dict)
    """Queue entry and ordinal of each."""


class Commits:
    """The commits of one trainer. At most one is under way."""

    def __init__(
        self,
        settings: Settings,
        learner: Conductor,
        store: CheckpointStore,
        reader: GroupReader,
        lease: Lease,
        metrics: TrainerMetrics,
    ) -> None:
        self._run = settings.run
        self._patience_seconds = settings.trainer.redis_patience_seconds
        self._learner = learner
        self._store = store
        self._reader = reader
        self._lease = lease
        self._metrics = metrics
        self._consumed = _Consumed()
        self._covered: dict[str, int] = {}
        """Queue entry and ordinal of the groups of the newest checkpoint: acknowledged with the next one."""
        metrics.progress.incarnation.set(lease.incarnation)
        self._under_way: asyncio.Task[None] | None = None

    def go_on_from(self, manifest: Manifest) -> None:
        """The newest checkpoint is that of an earlier trainer, which `manifest` describes."""
        self._covered = dict(zip(manifest.entry_ids, manifest.ordinals, strict=True))
        self._metrics.progress.committed_version.set(manifest.version)

    @property
    def incarnation(self) -> int:
        """The trainer whose commits these are."""
        return self._lease.incarnation

    @property
    def unacknowledged(self) -> int:
        """Groups that are trained and still in the stream."""
        return len(self._covered) + len(self._consumed.entries)

    def consumed(self, batch: Sequence[Buffered]) -> None:
        """Takes note that the batch is trained."""
        self._consumed.group_ids += [item.group.group_id for item in batch]
        self._consumed.entries |= {item.entry.entry_id: item.entry.ordinal for item in batch}

    async def begin(self, snapshot: Snapshot, recorded: Callable[[], Awaitable[None]]) -> None:
        """Begins to commit what is trained; the steps are recorded when `recorded()` returns. Waits for the commit
        before this one, and raises what made it fail."""
        await self.finish()
        if not self._consumed.entries:
            return
        manifest, entries = self._manifest(snapshot), self._consumed.entries
        self._consumed = _Consumed()
        writing = await asyncio.to_thread(self._store.begin, manifest.step)
        saving = await asyncio.to_thread(self._learner.save, writing / TRAINING_DIRECTORY)
        self._under_way = asyncio.create_task(
            self._commit(writing, saving, snapshot, manifest, entries, recorded), name="commit"
        )

    async def finish(self) -> None:
        """Returns when nothing is under way. Raises what made a commit fail."""
        if (task := self._under_way) is not None:
            self._under_way = None
            try:
                await task
            finally:
                await end_tasks(task)

    def failed(self) -> bool:
        """Whether the commit under way has ended with an error, which `finish` raises."""
        return self._under_way is not None and self._under_way.done() and self._under_way.exception() is not None

    async def conclude(self, snapshot: Snapshot, early_stop: str = "") -> Path:
        """Writes the run's final model, and acknowledges everything: nothing will be trained again. `early_stop`: why
        the run ends before its last step."""
        manifest = replace(self._manifest(snapshot), early_stop=early_stop)
        path = await asyncio.to_thread(self._store.save_final, snapshot, manifest)
        await self._reader.acknowledge(self._covered)
        self._covered = {}
        return path

    def _manifest(self, snapshot: Snapshot) -> Manifest:
        memory = self._learner.memory
        return Manifest(
            step=snapshot.version,
            version=snapshot.version,
            digest=snapshot.digest,
            incarnation=self._lease.incarnation,
            next_ordinal=snapshot.version * self._run.groups_per_batch,
            ordinals=tuple(self._consumed.entries.values()),
            group_ids=tuple(self._consumed.group_ids),
            entry_ids=tuple(self._consumed.entries),
            correction=memory.correction,
            probe_sequences=memory.probe_sequences,
            frozen=memory.frozen,
        )

    async def _commit(
        self,
        writing: Path,
        saving: Future[Any],
        snapshot: Snapshot,
        manifest: Manifest,
        entries: dict[str, int],
        recorded: Callable[[], Awaitable[None]],
    ) -> None:
        began = time.perf_counter()
        covered, self._covered = self._covered, self._covered | entries
        await asyncio.wrap_future(saving)
        await recorded()
        await asyncio.to_thread(record.sync, self._run.path)
        await persist(self._lease.check, self._patience_seconds)
        path = await asyncio.to_thread(self._store.commit, writing, snapshot, manifest)
        await asyncio.to_thread(ledger.append, self._run.path, commit_of(manifest))
        self._metrics.progress.committed_version.set(manifest.version)
        await self._reader.acknowledge(covered)
        self._covered = entries
        await asyncio.to_thread(give_back_free_memory)
        self._metrics.progress.commit_seconds.observe(time.perf_counter() - began)
        logger.info("checkpoint", extra={"path": str(path), "version": manifest.version, "groups": len(entries)})


def commit_of(manifest: Manifest) -> ledger.Commit:
    """The manifest's line in the ledger."""
    return ledger.Commit(
        manifest.step,
        manifest.version,
        manifest.digest,
        manifest.incarnation,
        manifest.ordinals,
        manifest.group_ids,
        manifest.entry_ids,
    )
