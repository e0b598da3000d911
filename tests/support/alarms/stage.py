"""What alerts are tried on: trainers and replicas in this process, a whole `ais run` beside it, and a real Prometheus
that watches all of them by the rules in hurried time."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from redis.asyncio import Redis

from ais.contracts.keys import Keys
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.sampling import Precision
from ais.launcher.processes.commands import LOOPBACK, free_port
from ais.runtime.security.certificates import Certificates
from ais.runtime.tasks import end_tasks
from ais.trainer.demo.demo_model import demo_model
from tests.support.access import tokens
from tests.support.alarms.disk import SmallDisk
from tests.support.alarms.hurried import Hurry
from tests.support.alarms.trainers import Fed, fed, policies_that_break
from tests.support.monitoring.prometheus import RULES, Prometheus, running
from tests.support.replicas.replica_stand_ins import Fleet, StandInReplica
from tests.support.runs import EXAMPLES, Run, started
from tests.support.runs.lines import whole_lines

TRAINERS: Mapping[str, Mapping[str, object]] = {
    "drifting": {},
    "collapsing": {"correction": {"method": "tis", "cap": 1e6}},
    "strange": {},
    "failing": {"trainer": {"untrusted_batches": 2}},
    "overflowing": {},
    "halted": {},
}
"""Settings of each, beyond those of all."""
JUDGE = """
import time
from pathlib import Path

def judge(response, answer, metadata, finish_reason):
    time.sleep(0.1)  # the pace of the run
    if Path(__file__).with_name("broken").exists():
        raise RuntimeError("the verifier is broken")
    return float(response == answer)
"""
MEASURED_STEPS = 6
PATIENCE_SECONDS = 400.0
"""On a machine that does much else."""


@dataclass
class Stage:
    """Everything that can go wrong."""

    hurry: Hurry
    prometheus: Prometheus
    trainers: Mapping[str, Fed]
    addresses: Mapping[str, str]
    """Where those trainers are, as Prometheus names them."""
    replicas: Mapping[str, StandInReplica]
    """The fleet of the trainer `drifting`."""
    fleet: Fleet
    run: Run
    trainer_of_the_run: str
    """Its address, as Prometheus names it."""
    disk: SmallDisk
    directory: Path
    stack: AsyncExitStack
    """Undoes what went wrong, in the end."""
    held: list[Certificates] = field(default_factory=list)
    """Certificates that this process has loaded."""
    done: dict[object, float] = field(default_factory=dict)
    """What has gone wrong, and when (seconds of a monotonic clock)."""
    suspended: list[psutil.Process] = field(default_factory=list)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Fails when the condition does not come true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await asyncio.to_thread(condition):
            assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS:g} s in vain: {what}\n{self.run.output}"
            await asyncio.sleep(0.5)

    def firing(self, seconds: float, matchers: str = "") -> list[str]:
        """Names of the alerts that have fired within the last seconds."""
        query = f'last_over_time(ALERTS{{alertstate="firing",{matchers}}}[{max(1, round(seconds))}s])'
        return sorted({one["metric"]["alertname"] for one in self.prometheus.query(query)})

    def process(self, program: str) -> psutil.Process:
        """The one of the run that is this program, or Python with this module."""
        children = psutil.Process(self.run.process.pid).children(recursive=True)
        (found,) = [one for one in children if one.name() == program or program in one.cmdline()[:3]]
        return found

    def suspend(self, program: str) -> None:
        """Until the end of the stage: who never goes on cannot be ended in good order."""
        process = self.process(program)
        process.suspend()
        self.suspended.append(process)


@asynccontextmanager
async def staged(redis: Redis, url: str, directory: Path) -> AsyncIterator[Stage]:
    """Everything under way; each service has been scraped, and each trainer has trained."""
    gc.collect()  # certificates of earlier tests, which this process would show
    model = directory / "policy"
    demo_model(seed=0).save_pretrained(model)
    (directory / "judging.py").write_text(JUDGE, encoding="utf-8")
    ports = {name: free_port() for name in (*TRAINERS, "trainer", "collector")}
    async with AsyncExitStack() as stack:
        stack.enter_context(policies_that_break())
        disk = stack.enter_context(SmallDisk.mounted(directory / "disk"))
        run = stack.enter_context(started(EXAMPLES / "sort16" / "config.toml", directory, _settings(directory, ports)))
        trainers = {}
        for name, sections in TRAINERS.items():
            place = disk.directory if name == "drifting" else directory
            trainers[name] = await stack.enter_async_context(
                fed(redis, url, name, place, model, ports[name], **sections)  # type: ignore[arg-type]
            )
        fleet = Fleet(ReplicaRegistry(redis, Keys("drifting")), stack, directory)
        stack.push_async_callback(end_tasks, asyncio.create_task(fleet.beat()))
        replicas = {name: await fleet.join(name) for name in ("steady", "refusing")}
        for name, one in replicas.items():
            await fleet.register(name, one.url, precision=Precision(weights="bf16"))
        jobs = {
            "trainer": [_at(ports[name]) for name in (*TRAINERS, "trainer")],
            "collector": [_at(ports["collector"])],
            "rollout": [urlsplit(one.url).netloc for one in replicas.values()] + [await _replica(run)],
        }
        hurry = Hurry.for_steps_of(await _seconds_of_a_step(trainers.values()))
        token = next(tokens().rglob("metrics.token"))
        prometheus = stack.enter_context(running(directory, jobs, token, hurry.rules(RULES, directory), hurry.interval))
        addresses = {name: _at(ports[name]) for name in TRAINERS}
        stage = Stage(
            hurry, prometheus, trainers, addresses, replicas, fleet, run, _at(ports["trainer"]), disk, directory, stack
        )
        await stage.until(
            lambda: len(prometheus.query("ais_trainer_steps_total > 0")) == len(jobs["trainer"]), "all train"
        )
        try:
            yield stage
        finally:
            for process in stage.suspended:
                process.resume()


def _settings(directory: Path, ports: Mapping[str, int]) -> Mapping[str, object]:
    reward = f'[{{name = "own", verifier = "function", function = "judging:judge", directory = "{directory}"}}]'
    return {
        "run.steps": 100_000,
        "run.samples_per_group": 2,
        "rollout.replicas": 1,
        "collector.task.reward": reward,
        "collector.judging.workers": 1,
        "collector.http_port": ports["collector"],
        "trainer.http_port": ports["trainer"],
        "redis.operation_timeout_seconds": 1.0,
        "security.tokens": tokens(),
    }


async def _replica(run: Run) -> str:
    """Where the run's replica shows its metrics."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := re.search(r"rollout-0: metrics at (\S+)", run.output)) is None:
        assert run.process.poll() is None, run.output
        assert time.monotonic() < deadline, run.output
        await asyncio.sleep(0.1)
    return urlsplit(found[1]).netloc


async def _seconds_of_a_step(trainers: Iterable[Fed]) -> float:
    """The slowest of the trainers', now."""
    files = [one.settings.run.path / "steps.jsonl" for one in trainers]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while min(map(len, steps := [whole_lines(file) for file in files])) < MEASURED_STEPS:
        assert time.monotonic() < deadline, "trainers that are fed do not train"
        await asyncio.sleep(0.5)
    newest = [of_one[-MEASURED_STEPS:] for of_one in steps]
    return max((last["time"] - first["time"]) / (MEASURED_STEPS - 1) for first, *_, last in newest)


def _at(port: int) -> str:
    return f"{LOOPBACK}:{port}"
