"""One run on this machine, from beginning to end: server, services, training, evaluation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ais.contracts.keys import Keys
from ais.contracts.redis_commands import commands_of
from ais.launcher.agents import with_agents
from ais.launcher.course import Course
from ais.launcher.directory.record import RunRecord, read_record, record_of
from ais.launcher.directory.run_directory import RunDirectory, checkpoints_of, early_end, spread
from ais.launcher.directory.steps import StepLog
from ais.launcher.display import Display, Snapshot, course_of_a_run, duration
from ais.launcher.evaluation import Evaluation, as_trained, evaluate
from ais.launcher.fleet import Fleet
from ais.launcher.processes.commands import Command, ServiceCommands, tokens_environment
from ais.launcher.processes.processes import Processes, ProcessFailedError
from ais.launcher.processes.server import provide_redis
from ais.launcher.report.results import Results, read_results
from ais.launcher.settings import LauncherSettings
from ais.launcher.tracking.ending import end_trackers
from ais.launcher.training import REFRESH_SECONDS, train
from ais.runtime.files import FOR_OWNER, replace_file
from ais.runtime.network.redis import RedisUnreachableError, connect
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RedisSettings
from ais.runtime.tasks import end_tasks

EVALUATION_FAILED = "training is finished, its evaluation failed"
"""Begins the reason in the record of a run whose training has no scores."""


@dataclass(frozen=True)
class Plan:
    """Everything that one run needs to know."""

    directory: RunDirectory
    """It exists already, and holds the settings file."""
    total_steps: int
    quantised: bool
    """Whether rollouts are sampled in less than BF16: there are then two policies to evaluate."""
    float32_head: bool
    """The trainer's: the BF16 policy is evaluated with the head that it is trained with."""
    redis: RedisSettings
    launcher: LauncherSettings
    services: Callable[[RedisSettings], ServiceCommands]
    """Gives the command lines of the services for a server's URL."""
    tokens: Path
    """Directory of the tokens that the services ask each other for."""
    lock: int
    """Descriptor of the lock that the processes are to inherit."""
    agents: tuple[Command, ...] = ()
    """What plays episodes that are played outside, in training and evaluation."""
    trained: bool = False
    """Whether training has come to its end before, so that only the evaluation is left."""
    trackers: tuple[Command, ...] = ()
    """They look on, also at the evaluation."""
    tracking_seconds: float = 0.0
    """How long they may take at the end."""
    hidden: Collection[str] = ()
    """Quantities that the display leaves out."""


def processes_of(
    directory: RunDirectory, launcher: LauncherSettings, tokens: Path | None = None, inherited: Sequence[int] = ()
) -> Processes:
    """An empty set of processes; those started in it log into `directory`, and are told where the run's tokens are."""
    environment = {} if tokens is None else tokens_environment(tokens)
    return Processes(directory.logs, launcher.stop_grace_seconds, inherited, environment)


async def run(
    plan: Plan, display: Display, beside: Callable[[Processes], Coroutine[Any, Any, None]] | None = None
) -> RunRecord:
    """Trains, then evaluates; every process has ended when it returns. `beside` goes on as long as training does.

    The run's record says in any case how it ended. An evaluation that fails is no failure of the run: its training is
    finished, and the record says why there are no scores. Raises ProcessFailedError, UnavailableError or
    RedisUnreachableError.
    """
    before = read_record(plan.directory.record)
    record = record_of(plan.directory.name)
    record.write(plan.directory.record)
    began = time.monotonic()
    course = course_of_a_run(plan.hidden)
    plan.directory.replicas.unlink(missing_ok=True)  # asked of an earlier launcher
    try:
        async with processes_of(plan.directory, plan.launcher, plan.tokens, [plan.lock]) as processes:
            display.update(Snapshot("connecting to Redis" if plan.redis.url else "starting Valkey", plan.total_steps))
            redis, server = await provide_redis(processes, plan.redis, plan.directory.valkey)
            if server is not None:
                replace_file(plan.directory.server_url, f"{redis.url.get_secret_value()}\n", FOR_OWNER)
            meddling = asyncio.create_task(beside(processes)) if beside else None
            try:
                if not plan.trained:
                    await _train(plan, processes, redis, server, course, display)
                    record.training_seconds = time.monotonic() - began
                elif before:
                    record.started_at, record.training_seconds = before.started_at, before.training_seconds
            finally:
                if meddling:
                    await end_tasks(meddling)
            course.follow(StepLog(plan.directory.steps))
            display.update(Snapshot("trained", plan.total_steps, course))
            if plan.launcher.evaluation_prompts:
                try:
                    scoring = _evaluate(plan, processes, redis, course, display)
                    await with_agents(processes, plan.agents, scoring)
                except (ProcessFailedError, UnavailableError, RedisUnreachableError) as error:
                    record.reason = f"{EVALUATION_FAILED}: {error}"
            await end_trackers(processes, plan.trackers, plan.directory, plan.tracking_seconds, display.note)
        record.status = "finished"
    except BrokenPipeError:
        record.status, record.reason = "stopped", "its standard output was closed"
        raise
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
        display.close(keep=record.status != "finished")
    return record


async def _train(
    plan: Plan,
    processes: Processes,
    redis: RedisSettings,
    server: Command | None,
    course: Course,
    display: Display,
) -> None:
    client = await connect(redis, commands_of(Keys(plan.directory.name)))
    try:
        await train(
            processes,
            plan.services(redis),
            server,
            trackers=plan.trackers,
            fleet=Fleet(client, plan.directory.name),
            steps_file=plan.directory.steps,
            held_out=StepLog(plan.directory.held_out),
            scale_file=plan.directory.replicas,
            course=course,
            total_steps=plan.total_steps,
            deaths_limit=plan.launcher.deaths_limit,
            display=display,
        )
    finally:
        await client.aclose()
    done = StepLog(plan.directory.steps).catch_up()
    early = early_end(plan.directory)
    if done < plan.total_steps and (early is None or early[0] != done):
        raise ProcessFailedError(f"the trainer was asked to end after {done} of {plan.total_steps} steps")


async def _evaluate(plan: Plan, processes: Processes, redis: RedisSettings, course: Course, display: Display) -> None:
    """Evaluates in both precisions at the same time, each on a replica of its own."""
    checkpoints = tuple(spread(checkpoints_of(plan.directory), plan.launcher.evaluation_checkpoints))
    precisions = {"bf16": as_trained(plan.float32_head)} | ({"rollout": ()} if plan.quantised else {})
    scores = len(precisions) * (len(checkpoints) + 1)
    try:
        async with asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(_show_evaluation(plan, scores, course, display))
            jobs = []
            for name, overrides in precisions.items():
                job = Evaluation(
                    run_name=f"{plan.directory.name}-evaluation-{name}",
                    overrides=overrides,
                    checkpoints=checkpoints,
                    prompts=plan.launcher.evaluation_prompts,
                    output=plan.directory.evaluations,
                )
                jobs.append(tasks.create_task(evaluate(processes, plan.directory.config, redis, job)))
            await asyncio.wait(jobs)
            showing.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _show_evaluation(plan: Plan, scores: int, course: Course, display: Display) -> None:
    """Follows the scores as they are written."""
    log = StepLog(plan.directory.evaluations)
    before, began = log.catch_up(), time.monotonic()
    prompts, last = plan.launcher.evaluation_prompts, ""
    while True:
        for score in log.new_records():
            last = f"; step {score['step']} scores {score['reward_mean']:.3f} in {score['precision']}"
        seconds = duration(time.monotonic() - began) if display.redraws else ""
        what = f"evaluating on {prompts} held-out prompts: {log.count - before} of {scores} scores"
        display.update(Snapshot(what + (f", {seconds}" if seconds else "") + last, plan.total_steps, course))
        await asyncio.sleep(REFRESH_SECONDS)


async def score_model(
    directory: RunDirectory,
    redis: RedisSettings,
    launcher: LauncherSettings,
    tokens: Path,
    prompts: int,
    records: Path | None = None,
    agents: Sequence[Command] = (),
) -> Results:
    """Scores a model on held-out prompts. The settings file in `directory` names the model and the precision."""
    async with processes_of(directory, launcher, tokens) as processes:
        shared, _server = await provide_redis(processes, redis, directory.valkey)
        job = Evaluation(
            run_name=directory.name,
            overrides=(),
            checkpoints=(),
            prompts=prompts,
            output=directory.evaluations,
            records=records,
        )
        await with_agents(processes, agents, evaluate(processes, directory.config, shared, job))
    return read_results(directory)
