"""Where a trainer begins: at the run's newest checkpoint, or at version 0."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from ais.runtime.process import UnavailableError
from ais.trainer import group_log, record, samples
from ais.trainer.history import evaluations, ledger
from ais.trainer.history.checkpoint import Checkpoint, CheckpointStore
from ais.trainer.history.commits import commit_of
from ais.trainer.learning.conductor import Conductor
from ais.trainer.learning.learner import Learner, Memory
from ais.trainer.learning.reference import load_reference
from ais.trainer.learning.state_reader import ForeignStateError
from ais.trainer.policy.policy import Policy
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.settings import Settings
from ais.trainer.weights.snapshot import Snapshot, Staging

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A learner at the version where training begins, with the records of the run rewound to it."""

    learner: Conductor
    store: CheckpointStore
    checkpoint: Checkpoint | None
    """What it was loaded from."""
    snapshot: Snapshot
    """Its version, to be published."""


async def start_of(settings: Settings, policy: Policy, ranks: Ranks) -> Start:
    """Loads the newest checkpoint that is whole.

    Raises UnavailableError when there are some and none is whole, and when its training state is not a trainer's.
    """
    run, trainer = settings.run, settings.trainer
    store = CheckpointStore(
        run.path,
        run.model,
        policy.model.config,
        trainer.checkpoints.keep,
        trainer.checkpoints.keep_every_steps,
        settings.evaluation.every_steps,
    )
    checkpoint = await asyncio.to_thread(store.newest)
    staging = Staging.open(trainer.push.staging_directory, run.path, trainer.push.shard_bytes)
    reference = await asyncio.to_thread(load_reference, run, trainer, policy, ranks)
    learner = Learner(policy, run, trainer, settings.correction, staging, ranks, reference)
    conductor = Conductor(learner, ranks, trainer.compute.threads)
    if checkpoint is None:
        snapshot = await asyncio.to_thread(conductor.snapshot)
    else:
        manifest = checkpoint.manifest
        memory = Memory(manifest.version, manifest.correction, manifest.probe_sequences, manifest.frozen)
        try:
            await asyncio.to_thread(conductor.resume, memory, checkpoint.training)
        except ForeignStateError as error:
            raise UnavailableError(
                f"{checkpoint.training} is not the work of a trainer: {error}. Remove {checkpoint.path} if you do not "
                "know who wrote it; training then goes on from the checkpoint before."
            ) from error
        snapshot = Snapshot.adopt(manifest.version, checkpoint.weights, staging)
        logger.info("resumes", extra={"version": manifest.version, "checkpoint": str(checkpoint.path)})
    record.rewind(run.path, snapshot.version)
    samples.rewind(run.path, snapshot.version)
    group_log.rewind(run.path, snapshot.version)
    evaluations.rewind(run.path, snapshot.version)
    ledger.reconcile(run.path, commit_of(checkpoint.manifest) if checkpoint else None)
    return Start(conductor, store, checkpoint, snapshot)
