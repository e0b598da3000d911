"""The trainer service on two ranks under torchrun, over gloo, with a real Valkey server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis

from ais.contracts.events import Finished, VersionPublished
from ais.contracts.keys import Keys
from ais.contracts.weights.offer import digest_of
from ais.runtime.exits import EXIT_RANK_LOST
from ais.runtime.settings import RunSettings
from ais.runtime.tasks import end_tasks
from ais.trainer.demo.demo_model import demo_model, demo_tokenizer, save_tokenizer
from ais.trainer.history import ledger
from tests.support.collector_stand_in import StandInCollector
from tests.support.replicas.replica_stand_ins import Fleet
from tests.support.runs.lines import whole_lines
from tests.support.torchrun import rank_processes, torchrun, torchrun_on_two_machines

pytestmark = pytest.mark.slow


@pytest.fixture
def run(run_name: str, tmp_path: Path) -> RunSettings:
    model = tmp_path / "model"
    demo_model(seed=0).save_pretrained(model)
    save_tokenizer(demo_tokenizer(), model)
    return RunSettings(name=run_name, directory=tmp_path, model=model, steps=4, groups_per_batch=3, samples_per_group=4)


@pytest.fixture
def trainer(run: RunSettings, redis_url: str, tmp_path: Path) -> Callable[..., Any]:
    """Starts the service on two ranks, of one machine or two: then there are two processes."""
    log = tmp_path / "log"

    @asynccontextmanager
    async def start(*settings: str, max_restarts: int = 0, machines: int = 1) -> AsyncIterator[Any]:
        chosen = {name: getattr(run, name) for name in RunSettings.model_fields}
        overrides = [f"run.{name}={value}" for name, value in chosen.items()]
        overrides += [
            f"redis.url={redis_url}",
            "trainer.checkpoints.every_steps=2",
            "trainer.push.registry_poll_seconds=0.05",
        ]
        flags = [flag for setting in (*overrides, *settings) for flag in ("--set", setting)]
        command = ("-m", "ais.trainer", *flags)
        if machines == 1:
            started: Any = torchrun(2, *command, log=log, max_restarts=max_restarts)
        else:
            started = torchrun_on_two_machines(*command, log=log, max_restarts=max_restarts)
        async with started as process:
            try:
                yield process
            except BaseException as error:
                error.add_note(log.read_text())
                raise

    return start


def steps_of(run: RunSettings) -> list[dict[str, Any]]:
    return whole_lines(run.path / "steps.jsonl")


async def serving(redis: Redis, keys: Keys) -> None:
    """Waits until the trainer has announced where it begins."""
    while not await redis.xlen(keys.events):
        await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def test_two_ranks_train_every_batch_in_order_and_the_weights_arrive(
    run: RunSettings, trainer: Callable[..., Any], redis: Redis, keys: Keys, fleet: Fleet
) -> None:
    collector = StandInCollector(redis, run)
    async with asyncio.timeout(90), trainer() as process:
        await serving(redis, keys)
        replica = await fleet.join("replica-0")
        await collector.run()
        assert await process.wait() == 0
    steps = steps_of(run)
    assert [step["ordinals"] for step in steps] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert all(step["skipped_updates"] == 0 and step["gradient_norm"] > 0 for step in steps)
    versions = [event.version for event in collector.events if isinstance(event, VersionPublished)]
    assert versions[-4:] == [1, 2, 3, 4]
    assert collector.events[-1] == Finished(4)
    weights = (run.path / "model/model.safetensors").read_bytes()
    assert digest_of(weights) == steps[-1]["digest"]
    assert (replica.version, replica.payload) == (4, weights)


async def test_ranks_of_one_machine_listen_on_loopback_only(
    run: RunSettings, trainer: Callable[..., Any], redis: Redis
) -> None:
    """Rendezvous, stores, gloo's pairs and the service's page: neither torchrun nor a rank has another listener."""
    collector = asyncio.create_task(StandInCollector(redis, run).run())
    async with asyncio.timeout(90), trainer("run.steps=2000") as process:
        await until(lambda: len(steps_of(run)) > 0)
        family = [psutil.Process(process.pid), *rank_processes(process)]
        listeners = [
            (one.pid, connection.laddr.ip)
            for one in family
            for connection in one.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    await end_tasks(collector)
    assert {pid for pid, _ in listeners} == {one.pid for one in family}
    assert {address for _, address in listeners} <= {"127.0.0.1", "::1"}


async def test_a_signal_to_torchrun_commits_what_is_trained_before_all_ranks_end(
    run: RunSettings, trainer: Callable[..., Any], redis: Redis
) -> None:
    collector = asyncio.create_task(StandInCollector(redis, run).run())
    async with asyncio.timeout(90), trainer("run.steps=2000", "trainer.checkpoints.every_steps=2000") as process:
        await until(lambda: len(steps_of(run)) > 0)
        ranks = rank_processes(process)
        process.send_signal(signal.SIGTERM)
        await process.wait()
        assert not any(rank.is_running() for rank in ranks)
    await end_tasks(collector)
    committed = [ordinal for commit in ledger.read(run.path) for ordinal in commit.ordinals]
    trained = [ordinal for step in steps_of(run) for ordinal in step["ordinals"]]
    assert committed == trained != []


@pytest.mark.parametrize("stopped", [0, 1])
async def test_a_rank_that_hangs_is_named_by_the_other_within_the_deadline(
    stopped: int, run: RunSettings, trainer: Callable[..., Any], redis: Redis, tmp_path: Path
) -> None:
    collector = asyncio.create_task(StandInCollector(redis, run).run())
    async with asyncio.timeout(90), trainer("run.steps=2000", "trainer.ranks.collective_seconds=3") as process:
        await until(lambda: len(steps_of(run)) > 0)
        ranks = rank_processes(process)
        ranks[stopped].send_signal(signal.SIGSTOP)
        async with asyncio.timeout(15):
            assert await asyncio.to_thread(ranks[1 - stopped].wait) in (EXIT_RANK_LOST, None)
    await end_tasks(collector)
    log = (tmp_path / "log").read_text()
    assert f"rank {1 - stopped} waits in '" in log
    assert f"rank {stopped} is missing, last seen in '" in log


async def test_after_the_death_of_a_rank_torchrun_starts_all_again_and_the_run_ends_with_every_group_once(
    run: RunSettings, trainer: Callable[..., Any], redis: Redis
) -> None:
    long = run.model_copy(update={"steps": 40})
    collector = asyncio.create_task(StandInCollector(redis, long).run())
    async with asyncio.timeout(110), trainer("run.steps=40", max_restarts=1) as process:
        await until(lambda: len(steps_of(run)) > 5)
        rank_processes(process)[0].kill()
        assert await process.wait() == 0
    await end_tasks(collector)
    assert_every_group_once(run)


async def test_the_death_of_a_rank_on_another_machine_is_survived_as_well(
    run: RunSettings, trainer: Callable[..., Any], redis: Redis
) -> None:
    long = run.model_copy(update={"steps": 40})
    collector = asyncio.create_task(StandInCollector(redis, long).run())
    async with asyncio.timeout(110), trainer("run.steps=40", max_restarts=2, machines=2) as machines:
        await until(lambda: len(steps_of(run)) > 5)
        (rank,) = rank_processes(machines[1])
        rank.kill()
        assert [await process.wait() for process in machines] == [0, 0]
    await end_tasks(collector)
    assert_every_group_once(run)


def assert_every_group_once(run: RunSettings) -> None:
    assert [step["version"] for step in steps_of(run)] == list(range(1, 41))
    assert {step["incarnation"] for step in steps_of(run)} == {1, 2}
    committed = [ordinal for commit in ledger.read(run.path) for ordinal in commit.ordinals]
    assert committed == list(range(40 * run.groups_per_batch))


async def test_ranks_end_when_torchrun_is_killed(run: RunSettings, trainer: Callable[..., Any], redis: Redis) -> None:
    collector = asyncio.create_task(StandInCollector(redis, run).run())
    async with asyncio.timeout(90), trainer("run.steps=2000") as process:
        await until(lambda: len(steps_of(run)) > 0)
        ranks = rank_processes(process)
        process.kill()
        await process.wait()
        await until(lambda: not any(is_alive(rank) for rank in ranks))
    await end_tasks(collector)


def is_alive(process: psutil.Process) -> bool:
    """A zombie is not: nobody has fetched its exit code yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
