"""Makes trained batches durable while training goes on, and only then forgets the groups they were made of.

Order: the training state is copied between two steps; in the background it is written, the steps' records are flushed,
the checkpoint is renamed into its place, which is the commit, and gets its line in the ledger; then the groups of the
checkpoint before are acknowledged. A death anywhere in between leaves a whole checkpoint and, in the queue, every group
that is not in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ais.contracts.queue import TrajectoryQueue
from ais.runtime.patience import persist
from ais.runtime.settings import RunSettings
from ais.runtime.tasks import end_tasks
from ais.trainer import record
from ais.trainer.groups.intake import Buffered, Intake
from ais.trainer.history import ledger
from ais.trainer.history.checkpoint import TRAINING_DIRECTORY, Checkpoint, CheckpointStore, Manifest
from ais.trainer.history.lease import Lease
from ais.trainer.learning.conductor import Conductor
from ais.trainer.metrics import TrainerMetrics
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
        run: RunSettings,
        learner: Conductor,
        store: CheckpointStore,
        queue: TrajectoryQueue,
        intake: Intake,
        lease: Lease,
        resumed_from: Checkpoint | None,
        metrics: TrainerMetrics,
        patience_seconds: float,
    ) -> None:
        self._run = run
        self._learner = learner
        self._store = store
        self._queue = queue
        self._intake = intake
        self._lease = lease
        self._metrics = metrics
        self._patience_seconds = patience_seconds
        self._consumed = _Consumed()
        manifest = resumed_from.manifest if resumed_from else None
        self._covered = dict(zip(manifest.entry_ids, manifest.ordinals, strict=True)) if manifest else {}
        """Entries of the newest checkpoint: acknowledged with the next one."""
        metrics.committed_version.set(manifest.version if manifest else 0)
        metrics.incarnation.set(lease.incarnation)
        self._under_way: asyncio.Task[None] | None = None

    @property
    def unacknowledged(self) -> int:
        """Groups that are trained and still in the stream."""
        return len(self._covered) + len(self._consumed.entries)

    def consumed(self, batch: Sequence[Buffered]) -> None:
        """The batch is trained."""
        self._consumed.group_ids += [item.group.group_id for item in batch]
        self._consumed.entries |= {item.entry.entry_id: item.entry.ordinal for item in batch}

    async def begin(self, snapshot: Snapshot, recorded: Callable[[], Awaitable[None]]) -> None:
        """Begins to commit what is trained; the steps are recorded when `recorded()` returns. Waits for the commit
        before this one, and raises what made it fail."""
        await self.finish()
        if not self._consumed.entries:
            return
        manifest, entries = self.manifest(snapshot), self._consumed.entries
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

    async def acknowledge_all(self) -> None:
        """At the end of the run: nothing will be trained again."""
        await self._acknowledge(self._covered)
        self._covered = {}

    def manifest(self, snapshot: Snapshot) -> Manifest:
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
        self._metrics.committed_version.set(manifest.version)
        await self._acknowledge(covered)
        self._covered = entries
        self._metrics.commit_seconds.observe(time.perf_counter() - began)
        logger.info("checkpoint", extra={"path": str(path), "version": manifest.version, "groups": len(entries)})

    async def _acknowledge(self, entries: dict[str, int]) -> None:
        await persist(partial(self._queue.acknowledge, entries), self._patience_seconds)
        self._intake.forget(entries)


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
