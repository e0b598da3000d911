"""One run on this machine from beginning to end: server, services, training, evaluation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from ais.contracts.keys import Keys
from ais.contracts.redis_commands import commands_of
from ais.launcher.directory.record import RunRecord, record_of
from ais.launcher.directory.run_directory import RunDirectory, checkpoints_of, spread
from ais.launcher.directory.steps import read_records
from ais.launcher.display import Display, Snapshot
from ais.launcher.evaluation import BF16, Evaluation, evaluate
from ais.launcher.fleet import Fleet
from ais.launcher.processes.commands import Command, ServiceCommands
from ais.launcher.processes.processes import Processes, ProcessFailedError
from ais.launcher.processes.server import provide_redis
from ais.launcher.report.results import Results, read_results
from ais.launcher.settings import LauncherSettings
from ais.launcher.training import train
from ais.runtime.files import FOR_OWNER, replace_file
from ais.runtime.redis import connect
from ais.runtime.redis_url import RedisUrl
from ais.runtime.settings import RedisSettings
from ais.runtime.tasks import end_tasks


@dataclass(frozen=True)
class Plan:
    """What one run is."""

    directory: RunDirectory
    """Made already, with the settings file in it."""
    total_steps: int
    quantised: bool
    """Whether rollouts are sampled in less than BF16, so that there are two policies to evaluate."""
    redis: RedisSettings
    launcher: LauncherSettings
    services: Callable[[RedisUrl], ServiceCommands]
    """The services' command lines, given the server's URL."""
    lock: int
    """Descriptor of the lock on the directory."""


def processes_of(directory: RunDirectory, launcher: LauncherSettings, inherited: Sequence[int] = ()) -> Processes:
    """No processes yet; those that are started log into `directory`."""
    return Processes(directory.logs, launcher.stop_grace_seconds, inherited)


async def run(
    plan: Plan, display: Display, beside: Callable[[Processes], Coroutine[Any, Any, None]] | None = None
) -> RunRecord:
    """Trains, then evaluates. Raises ProcessFailedError, UnavailableError or RedisUnreachableError; the run's record
    says how it ended in any case, and every process is ended. `beside` goes on as long as training does."""
    record = record_of(plan.directory.name)
    record.write(plan.directory.record)
    began = time.monotonic()
    try:
        async with processes_of(plan.directory, plan.launcher, [plan.lock]) as processes:
            display.update(Snapshot("connecting to Redis" if plan.redis.url else "starting Valkey", plan.total_steps))
            redis, server = await provide_redis(processes, plan.redis, plan.directory.valkey)
            if server is not None:
                replace_file(plan.directory.server_url, f"{redis.url.get_secret_value()}\n", FOR_OWNER)
            meddling = asyncio.create_task(beside(processes)) if beside else None
            try:
                await _train(plan, processes, redis, server, display)
            finally:
                if meddling:
                    await end_tasks(meddling)
            record.training_seconds = time.monotonic() - began
            if plan.launcher.evaluation_prompts:
                await _evaluate(plan, processes, redis, display)
        record.status = "finished"
    except asyncio.CancelledError:
        record.status, record.reason = "stopped", "by a signal"
        raise
    except Exception as error:
        record.status, record.reason = "failed", str(error)
        raise
    finally:
        plan.directory.server_url.unlink(missing_ok=True)
        record.total_seconds = time.monotonic() - began
        record.write(plan.directory.record)
        display.close()
    return record


async def _train(
    plan: Plan, processes: Processes, redis: RedisSettings, server: Command | None, display: Display
) -> None:
    client = await connect(redis, commands_of(Keys(plan.directory.name)))
    try:
        await train(
            processes,
            plan.services(redis.url),
            server,
            fleet=Fleet(client, plan.directory.name),
            steps_file=plan.directory.steps,
            scale_file=plan.directory.replicas,
            total_steps=plan.total_steps,
            deaths_limit=plan.launcher.deaths_limit,
            display=display,
        )
    finally:
        await client.aclose()
    done = len(read_records(plan.directory.steps))
    if done < plan.total_steps:
        raise ProcessFailedError(f"the trainer was asked to end after {done} of {plan.total_steps} steps")


async def _evaluate(plan: Plan, processes: Processes, redis: RedisSettings, display: Display) -> None:
    """Both precisions at the same time, each on a replica of its own."""
    checkpoints = tuple(spread(checkpoints_of(plan.directory), plan.launcher.evaluation_checkpoints))
    display.update(
        Snapshot(
            f"evaluating {len(checkpoints) + 1} policies on {plan.launcher.evaluation_prompts} held-out prompts",
            plan.total_steps,
            read_records(plan.directory.steps),
        )
    )
    precisions = {"bf16": BF16} | ({"rollout": ()} if plan.quantised else {})
    try:
        async with asyncio.TaskGroup() as tasks:
            for name, overrides in precisions.items():
                job = Evaluation(
                    run_name=f"{plan.directory.name}-evaluation-{name}",
                    overrides=overrides,
                    checkpoints=checkpoints,
                    prompts=plan.launcher.evaluation_prompts,
                    output=plan.directory.evaluations,
                )
                tasks.create_task(evaluate(processes, plan.directory.config, redis, job))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def score_model(
    directory: RunDirectory, redis: RedisSettings, launcher: LauncherSettings, prompts: int
) -> Results:
    """Scores the model of the settings file in `directory` on held-out prompts, in the precision it says."""
    async with processes_of(directory, launcher) as processes:
        shared, _server = await provide_redis(processes, redis, directory.valkey)
        job = Evaluation(
            run_name=directory.name, overrides=(), checkpoints=(), prompts=prompts, output=directory.evaluations
        )
        await evaluate(processes, directory.config, shared, job)
    return read_results(directory)
