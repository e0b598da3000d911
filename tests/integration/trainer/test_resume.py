"""A trainer that was killed goes on as if nothing had happened: same numbers, no group lost, none trained twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from redis.asyncio import Redis
from transformers import AutoModelForCausalLM

from ais.contracts.events import Resumed, TrainerEvents
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.trajectory import encode_group
from ais.runtime.settings import RunSettings
from ais.runtime.tasks import end_tasks
from ais.trainer.demo.demo_model import demo_model, demo_tokenizer, save_tokenizer
from ais.trainer.groups.reader import QueueLostError
from ais.trainer.history import ledger
from ais.trainer.service import serve_trainer
from ais.trainer.settings import Settings
from tests.support.collector_stand_in import StandInCollector
from tests.support.replicas.replica_stand_ins import Fleet
from tests.support.trainer_groups import make_group
from tests.support.trainer_settings import nested

GROUPS = 3
SAMPLES = 4
TIMES = ("time", "step_seconds", "tokens_per_second", "queue_depth", "incarnation", "replicas")
"""What a step's line says of when and where, not of what was trained."""


def settings_of(redis_url: str, name: str, directory: Path, /, steps: int, **trainer: object) -> Settings:
    model = directory / "source"
    if not model.exists():
        demo_model(seed=0).save_pretrained(model)
        save_tokenizer(demo_tokenizer(), model)
    return Settings.model_validate(
        {
            "run": {
                "name": name,
                "directory": directory,
                "model": model,
                "steps": steps,
                "groups_per_batch": GROUPS,
                "samples_per_group": SAMPLES,
                "max_staleness": 100,  # so that all content of the queue can be there from the beginning
            },
            "redis": {"url": redis_url},
            "trainer": nested(**{"every_steps": 5, "warmup_steps": 2, "final_seconds": 0, **trainer}),
        }
    )


async def fill(redis: Redis, run: RunSettings, twice: int | None = None) -> None:
    """Publishes every group of the run; one ordinal's entry twice, as no collector of ours would."""
    queue = TrajectoryQueue(redis, Keys(run.name))
    await queue.prepare()
    for ordinal in range(run.steps * GROUPS):
        await queue.publish(ordinal, encode_group(make_group(ordinal, samples=SAMPLES)))
        if ordinal == twice:
            payload = encode_group(make_group(ordinal, samples=SAMPLES, seed=1))
            await redis.xadd(Keys(run.name).groups, {"ordinal": ordinal, "group": payload})


def curve(run: RunSettings) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run.path / "steps.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES and k != "phase_seconds"} for line in lines]


def assert_each_group_once(run: RunSettings) -> None:
    committed = [ordinal for commit in ledger.read(run.path) for ordinal in commit.ordinals]
    assert committed == list(range(run.steps * GROUPS))
    groups = [group for commit in ledger.read(run.path) for group in commit.group_ids]
    assert len(set(groups)) == len(groups) == run.steps * GROUPS


async def run_to_the_end(settings: Settings) -> None:
    async with asyncio.timeout(60):
        await serve_trainer(settings, asyncio.Event())


@asynccontextmanager
async def crash_after(settings: Settings, steps: int) -> AsyncIterator[None]:
    """A trainer that is torn down, without a word, once it has recorded so many steps."""
    trainer = asyncio.create_task(serve_trainer(settings, asyncio.Event()))
    path = settings.run.path / "steps.jsonl"
    async with asyncio.timeout(60):
        while not path.exists() or len(path.read_text().splitlines()) < steps:
            await asyncio.sleep(0.001)
            assert not trainer.done(), trainer.result()
    await end_tasks(trainer)
    yield


@pytest.mark.slow
async def test_a_trainer_killed_at_random_steps_equals_one_that_was_not(
    redis: Redis, redis_url: str, run_name: str, tmp_path: Path
) -> None:
    calm = settings_of(redis_url, f"{run_name}-calm", tmp_path, steps=40)
    await fill(redis, calm.run)
    await run_to_the_end(calm)

    killed = settings_of(redis_url, f"{run_name}-killed", tmp_path, steps=40)
    await fill(redis, killed.run, twice=17)
    config = tmp_path / "config.toml"
    config.write_text(
        f"[run]\n{_toml(killed.run)}\n[redis]\nurl = {redis_url!r}\n[trainer]\n"
        "checkpoints.every_steps = 5\noptimizer.warmup_steps = 2\npush.final_seconds = 0\n"
    )
    for step in sorted(random.Random(run_name).sample(range(1, 38), 3)):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ais.trainer", "-c", str(config)),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=asyncio.subprocess.DEVNULL,
        )
        path = killed.run.path / "steps.jsonl"
        async with asyncio.timeout(60):
            while not path.exists() or len(path.read_text().splitlines()) < step:
                await asyncio.sleep(0.001)
        process.kill()
        await process.wait()
    await run_to_the_end(killed)

    assert curve(killed.run) == curve(calm.run)
    models = [(run.path / "model/model.safetensors").read_bytes() for run in (calm.run, killed.run)]
    assert models[0] == models[1]
    assert_each_group_once(killed.run)
    assert await TrajectoryQueue(redis, Keys(killed.run.name)).depth() == 0
    assert await redis.xlen(Keys(killed.run.name).dead_letters) == 0


def _toml(run: RunSettings) -> str:
    return "\n".join(
        f"{name} = {json.dumps(value if isinstance(value, int) else str(value))}" for name, value in vars(run).items()
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "gspo", "aggregation": "sequence_mean", "reference": {"policy": "average", "decay": 0.5}},
        {"reference": {"policy": "start", "place": "reward", "coefficient": 0.1}, "entropy_coefficient": 0.01},
        {"rank": 4, "reference": {"policy": "average", "decay": 0.5}, "name": "cispo", "updates_per_batch": 2},
    ],
    ids=["average", "start", "adapters"],
)
async def test_a_reference_and_adapters_go_on_as_they_were(
    settings: dict[str, Any], redis: Redis, redis_url: str, run_name: str, tmp_path: Path
) -> None:
    calm = settings_of(redis_url, f"{run_name}-calm", tmp_path, steps=6, every_steps=2, **settings)
    await fill(redis, calm.run)
    await run_to_the_end(calm)
    torn = settings_of(redis_url, f"{run_name}-torn", tmp_path, steps=6, every_steps=2, **settings)
    await fill(redis, torn.run)
    async with crash_after(torn, steps=4):
        pass
    await run_to_the_end(torn)
    assert curve(torn.run) == curve(calm.run)
    assert all(step["reference_kl"] is not None and step["skipped_updates"] == 0 for step in curve(calm.run))
    assert curve(calm.run)[-1]["reference_kl"] > 0.0
    adapters = [path / "adapter" for path in (*(torn.run.path / "checkpoints").glob("step-*"), torn.run.path / "model")]
    if "rank" in settings:
        for adapter in adapters:
            loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(torn.run.model), adapter)
            assert isinstance(loaded, PeftModel)
    else:
        assert not any(adapter.exists() for adapter in adapters)


async def test_a_trainer_that_died_before_its_first_checkpoint_begins_again_with_every_group(
    redis: Redis, redis_url: str, run_name: str, tmp_path: Path
) -> None:
    settings = settings_of(redis_url, run_name, tmp_path, steps=8, every_steps=100)
    await fill(redis, settings.run)
    async with crash_after(settings, steps=3):
        pass
    await run_to_the_end(settings)
    assert [step["version"] for step in curve(settings.run)] == list(range(1, 9))
    assert_each_group_once(settings.run)


async def test_from_a_damaged_checkpoint_training_falls_back_by_one_and_loses_nothing(
    redis: Redis, redis_url: str, run_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calm = settings_of(redis_url, f"{run_name}-calm", tmp_path, steps=20, every_steps=4)
    await fill(redis, calm.run)
    await run_to_the_end(calm)

    settings = settings_of(redis_url, run_name, tmp_path, steps=20, every_steps=4)
    await fill(redis, settings.run)
    async with crash_after(settings, steps=14):
        pass
    newest = sorted((settings.run.path / "checkpoints").glob("step-*"))[-1]
    shard = newest / "training/__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    await run_to_the_end(settings)
    assert "CHECKPOINT DAMAGED" in caplog.text
    assert f"damaged-{newest.name}" in {path.name for path in (settings.run.path / "checkpoints").iterdir()}
    assert curve(settings.run) == curve(calm.run)
    assert_each_group_once(settings.run)


async def test_a_finished_run_goes_on_when_it_is_given_more_steps(
    redis: Redis, redis_url: str, run_name: str, tmp_path: Path
) -> None:
    first = settings_of(redis_url, run_name, tmp_path, steps=4)
    await fill(redis, first.run)
    await run_to_the_end(first)
    more = first.model_copy(update={"run": first.run.model_copy(update={"steps": 7})})
    queue = TrajectoryQueue(redis, Keys(run_name))
    for ordinal in range(4 * GROUPS, 7 * GROUPS):
        await queue.publish(ordinal, encode_group(make_group(ordinal, samples=SAMPLES)))
    await run_to_the_end(more)
    assert [step["version"] for step in curve(more.run)] == list(range(1, 8))
    assert_each_group_once(more.run)


async def test_a_collector_regenerates_what_a_server_without_persistence_has_lost(
    redis: Redis, redis_url: str, run_name: str, tmp_path: Path
) -> None:
    settings = settings_of(redis_url, run_name, tmp_path, steps=10)
    await fill(redis, settings.run)
    async with crash_after(settings, steps=7):
        pass
    await redis.delete(*[key async for key in redis.scan_iter(match=f"ais:{run_name}:*")])
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        collector = StandInCollector(redis, settings.run)
        tasks.create_task(collector.run())
        tasks.create_task(serve_trainer(settings, asyncio.Event()))
    assert isinstance(collector.events[0], Resumed)
    assert collector.events[0].version == 5
    assert [step["version"] for step in curve(settings.run)] == list(range(1, 11))


async def test_a_trainer_whose_queue_is_lost_under_it_says_so_and_the_next_one_goes_on(
    redis: Redis, redis_url: str, run_name: str, tmp_path: Path
) -> None:
    settings = settings_of(redis_url, run_name, tmp_path, steps=10)
    half = settings.run.model_copy(update={"steps": 6})
    await fill(redis, half)  # then it waits for more
    trainer = asyncio.create_task(serve_trainer(settings, asyncio.Event()))
    async with asyncio.timeout(60):
        while not [commit for commit in ledger.read(settings.run.path) if commit.step == 5]:
            await asyncio.sleep(0.01)
        await redis.delete(*[key async for key in redis.scan_iter(match=f"ais:{run_name}:*")])
        with pytest.raises(QueueLostError, match="without the run's queue"):
            await trainer
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(StandInCollector(redis, settings.run).run())
        tasks.create_task(serve_trainer(settings, asyncio.Event()))
    assert [step["version"] for step in curve(settings.run)] == list(range(1, 11))


async def test_a_resumed_trainer_tells_where_it_is_and_offers_its_version(
    redis: Redis, redis_url: str, run_name: str, tmp_path: Path, fleet: Fleet
) -> None:
    settings = settings_of(redis_url, run_name, tmp_path, steps=20, registry_poll_seconds=0.05, final_seconds=10)
    await fill(redis, settings.run)
    async with crash_after(settings, steps=8):
        pass
    replica = await fleet.join("replica-0", version=0)
    await run_to_the_end(settings.model_copy(update={"run": settings.run.model_copy(update={"steps": 5})}))
    resumed = [e for e in await TrainerEvents(redis, Keys(run_name)).follow(0.1) if isinstance(e, Resumed)]
    assert [event.version for event in resumed] == [0, 5]
    assert resumed[-1].digest == curve(settings.run)[-1]["digest"]
    assert replica.version == 5
