"""What a trainer does when a run goes wrong: a group that kills it, groups that vanish, batches of another policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from ais.contracts.events import Discarded
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.trajectory import ScoredGroup, encode_group
from ais.runtime.process import UnavailableError
from ais.runtime.security.roles import Role
from ais.runtime.settings import RunSettings
from ais.runtime.tasks import end_tasks
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.history import ledger
from ais.trainer.learning import learner as learner_module
from ais.trainer.service import serve_trainer
from ais.trainer.settings import Settings
from tests.support.access import bearer, tokens
from tests.support.collector_stand_in import StandInCollector
from tests.support.runs.lines import whole_lines
from tests.support.trainer_groups import make_group


@pytest.fixture
def settings(redis_url: str, run_name: str, tmp_path: Path) -> Settings:
    demo_model(seed=0).save_pretrained(tmp_path / "source")
    return Settings.model_validate(
        {
            "run": {
                "name": run_name,
                "directory": tmp_path,
                "model": tmp_path / "source",
                "steps": 4,
                "groups_per_batch": 3,
                "samples_per_group": 4,
            },
            "redis": {"url": redis_url},
            "security": {"tokens": tokens()},
            "trainer": {
                "stall_seconds": 0.4,
                "checkpoints": {"every_steps": 2},
                "optimizer": {"warmup_steps": 2},
                "push": {"final_seconds": 0},
            },
        }
    )


def lines(run: RunSettings, name: str) -> list[dict[str, Any]]:
    return whole_lines(run.path / name)


async def train(settings: Settings) -> None:
    async with asyncio.timeout(90):
        await serve_trainer(settings, asyncio.Event())


class Poisonous(StandInCollector):
    """The first group of one ordinal has a mark on it; the one that takes its place has none."""

    poisonous = 4

    async def publish(self, ordinal: int) -> None:
        group = make_group(ordinal, samples=self._run.samples_per_group, version=self._version)
        if ordinal == self.poisonous and not any(isinstance(event, Discarded) for event in self.events):
            group = replace(group, task="poison")
        await self._queue.publish(ordinal, encode_group(group))


async def test_a_group_that_kills_trainers_is_replaced_and_the_rest_of_its_batch_is_trained(
    settings: Settings, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = learner_module.prepare

    def dies_of_it(groups: Sequence[ScoredGroup], *arguments: Any) -> Any:
        if any(group.task == "poison" for group in groups):
            raise MemoryError("whatever a group can do to a process")
        return prepare(groups, *arguments)

    monkeypatch.setattr(learner_module, "prepare", dies_of_it)
    events = Poisonous(redis, settings.run)
    collector = asyncio.create_task(events.run())
    for _ in range(3):  # at its batch, once more, and at the group alone
        with pytest.raises(MemoryError):
            await train(settings)
    await train(settings)
    await end_tasks(collector)
    (discarded,) = [event for event in events.events if isinstance(event, Discarded)]
    assert discarded.ordinal == 4
    assert "kills the trainer" in discarded.reason
    committed = [ordinal for commit in ledger.read(settings.run.path) for ordinal in commit.ordinals]
    assert committed == list(range(12))
    assert await redis.xlen(keys.dead_letters) == 1


async def test_batches_of_another_policy_are_not_trained_and_end_the_run_with_the_reason(
    settings: Settings, redis: Redis
) -> None:
    class Strange(StandInCollector):
        async def publish(self, ordinal: int) -> None:
            group = make_group(ordinal, samples=self._run.samples_per_group, version=self._version)
            if 3 <= ordinal < 9:  # batches 1 and 2
                group = replace(
                    group,
                    trajectories=tuple(
                        replace(one, behaviour_logprobs=one.behaviour_logprobs - 20.0) for one in group.trajectories
                    ),
                )
            await self._queue.publish(ordinal, encode_group(group))

    limited = settings.trainer.model_copy(update={"untrusted_batches": 2})
    settings = settings.model_copy(update={"trainer": limited})
    collector = asyncio.create_task(Strange(redis, settings.run).run())
    with pytest.raises(UnavailableError, match=r"2 batches in a row were not trained.*is 20.* nats"):
        await train(settings)
    steps = lines(settings.run, "steps.jsonl")
    assert [(step["trusted"], step["updates"]) for step in steps] == [(True, 1), (False, 0), (False, 0)]
    # They are committed: a trainer that is started again goes on behind them, not into them.
    await train(settings)
    await end_tasks(collector)
    assert [step["updates"] for step in lines(settings.run, "steps.jsonl")] == [1, 0, 0, 1]


@pytest.mark.parametrize("deletion", ["some entries", "the whole stream trimmed"])
async def test_groups_that_vanish_from_the_queue_are_made_again(
    settings: Settings, redis: Redis, keys: Keys, deletion: str
) -> None:
    """They count as accepted, so nobody would make them; the trainer is not even told that they are gone."""
    queue = TrajectoryQueue(redis, keys)
    await queue.prepare()
    published = [make_group(ordinal, samples=4) for ordinal in range(6)]
    for group in published:
        await queue.publish(group.ordinal, encode_group(group))
    if deletion == "some entries":
        entries = await redis.xrange(keys.groups)
        await redis.xdel(keys.groups, entries[1][0], entries[4][0])
    else:
        await redis.xtrim(keys.groups, maxlen=0)

    class AfterAll(StandInCollector):
        """Publishes what the queue does not count as accepted, as the real one does."""

        async def _publish_admitted(self) -> None:
            end = min(self._run.steps, self._run.max_staleness + self._version + 1) * self._run.groups_per_batch
            begin = self._version * self._run.groups_per_batch
            for ordinal in sorted(set(range(begin, end)) - await self._queue.accepted(begin)):
                await self.publish(ordinal)

    collector = asyncio.create_task(AfterAll(redis, settings.run).run())
    await train(settings)
    await end_tasks(collector)
    committed = [ordinal for commit in ledger.read(settings.run.path) for ordinal in commit.ordinals]
    assert committed == list(range(12))
    assert "The queue has lost" in lines(settings.run, "warnings.jsonl")[0]["message"]


async def test_a_trainer_without_batches_says_what_it_waits_for_until_they_come(
    settings: Settings, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        trainer = asyncio.create_task(train(settings))
        async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False, headers=bearer(Role.METRICS)) as client:
            while not (told := lines(settings.run, "warnings.jsonl")):
                await asyncio.sleep(0.02)
            (url,) = [record.url for record in caplog.records if record.message == "listening"]
            ready = await client.get(f"{url}/readyz")
            metrics = (await client.get(f"{url}/metrics")).text
        assert (told[0]["kind"], told[0]["version"]) == ("stalled", 0)
        assert "3 groups (0, 1, 2) have not come. No replica is registered" in told[0]["message"]
        assert (ready.status_code, ready.json()["reason"]) == (503, told[0]["message"])
        assert 'ais_trainer_warnings_total{kind="stalled"} 1.0' in metrics
        (waiting,) = [line for line in metrics.splitlines() if line.startswith("ais_trainer_waiting_seconds ")]
        assert float(waiting.split()[1]) >= 0.4
        collector = asyncio.create_task(StandInCollector(redis, settings.run).run())
        await trainer
        await end_tasks(collector)
    assert "batches come again" in caplog.text


async def test_a_run_whose_rewards_are_all_equal_is_warned_of(settings: Settings, redis: Redis) -> None:
    class Useless(StandInCollector):
        async def publish(self, ordinal: int) -> None:
            group = make_group(ordinal, samples=self._run.samples_per_group, version=self._version)
            await self._queue.publish(ordinal, encode_group(replace(group, rewards=(0.0,) * 4)))

    run = settings.run.model_copy(update={"steps": 12})
    settings = settings.model_copy(update={"run": run})
    collector = asyncio.create_task(Useless(redis, run).run())
    await train(settings)
    await end_tasks(collector)
    (warned,) = [line for line in lines(run, "warnings.jsonl") if line["kind"] != "stalled"]
    assert (warned["kind"], warned["version"]) == ("rewards_equal", 10)
    assert "in no group do the rewards differ (their mean is 0): nothing is learned" in warned["message"]
