"""Scores saved policies on held-out prompts, in BF16 and in the precision that sampled them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ais.contracts.keys import Keys
from ais.contracts.redis_commands import replica_commands
from ais.contracts.registry import ReplicaRecord
from ais.launcher.fleet import Fleet
from ais.launcher.processes.commands import evaluation, evaluation_replica
from ais.launcher.processes.processes import Exit, Processes, ProcessFailedError, failure
from ais.runtime.network.redis import connect
from ais.runtime.settings import RedisSettings
from ais.runtime.tasks import end_tasks

REPLICA_READY_SECONDS = 300.0
"""A replica that takes longer to load than this has failed."""


@dataclass(frozen=True)
class Evaluation:
    """What to score, and how the replica that samples it differs from the settings file."""

    run_name: str
    """Prefix of the Redis keys; no other run may have it."""
    overrides: tuple[str, ...]
    """Settings of the replica: its precision, its model."""
    checkpoints: tuple[Path, ...]
    """Directories whose weights are pushed to the replica one after another, in the order of their steps."""
    prompts: int
    output: Path
    """JSONL file to which one line is added for the replica's own policy and one for each checkpoint."""
    records: Path | None = None
    """File that gets every response of the policy, as JSON lines or Parquet."""


def as_trained(float32_head: bool) -> tuple[str, ...]:
    """Overrides that turn all quantisation off. `float32_head`: the trainer's."""
    return (
        "rollout.precision.weights=bf16",
        "rollout.precision.kv_cache=bf16",
        "rollout.precision.head=false",
        f"rollout.precision.float32_head={str(float32_head).lower()}",
    )


async def evaluate(processes: Processes, config: Path, redis: RedisSettings, job: Evaluation) -> None:
    """Starts a replica, scores its own policy, then each checkpoint's, ends it. Raises ProcessFailedError."""
    async with serving_replica(processes, config, redis, job.run_name, job.overrides) as record:
        await _score(processes, config, redis, job, record, checkpoints=())
        if job.checkpoints:
            await _score(processes, config, redis, job, record, job.checkpoints)


@asynccontextmanager
async def serving_replica(
    processes: Processes, config: Path, redis: RedisSettings, run_name: str, overrides: Sequence[str]
) -> AsyncIterator[ReplicaRecord]:
    """Starts a replica under a run name of its own, gives it when it takes calls, and ends it with the context.

    Raises ProcessFailedError.
    """
    replica = evaluation_replica(config, redis, run_name, overrides)
    client = await connect(redis, replica_commands(Keys(run_name)))
    try:
        running = asyncio.create_task(processes.run(replica))
        try:
            yield await _ready(Fleet(client, run_name), running, processes, replica.name)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    finally:
        await client.aclose()


async def _ready(fleet: Fleet, running: asyncio.Task[int], processes: Processes, name: str) -> ReplicaRecord:
    ready = asyncio.create_task(fleet.first_ready())
    try:
        await asyncio.wait((ready, running), timeout=REPLICA_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            return ready.result()
        tail, log = processes.log_tail(name), processes.log_path(name)
        if running.done():
            raise failure(Exit(name, running.result()), "the evaluation needs it", log, tail)
        raise ProcessFailedError(f"{name} is not ready after {REPLICA_READY_SECONDS:g} s. The end of {log}:\n{tail}")
    finally:
        await end_tasks(ready)


async def _score(
    processes: Processes,
    config: Path,
    redis: RedisSettings,
    job: Evaluation,
    replica: ReplicaRecord,
    checkpoints: Sequence[Path],
) -> None:
    command = evaluation(
        config,
        redis,
        job.run_name,
        replica=(replica.grpc_address, replica.http_url),
        checkpoints=checkpoints,
        prompts=job.prompts,
        output=job.output,
        records=job.records,
    )
    if code := await processes.run(command):
        name = command.name
        raise failure(Exit(name, code), "it scores the policies", processes.log_path(name), processes.log_tail(name))
