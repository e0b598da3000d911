"""Replicas that join and leave while the collector works: real replica processes that replay, a real queue."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ais.collector.collector import Collector
from ais.collector.exercise import Exercise
from ais.collector.metrics import CollectorMetrics
from ais.collector.prompts.prompts import Split
from ais.collector.prompts.tokenizer import open_tokenizer
from ais.collector.replicas.proof import Expected
from ais.collector.settings import CollectorSettings
from ais.collector.tasks.task import open_task
from ais.collector.trainer_watch import TrainerChannel
from ais.contracts.events import Finished, TrainerEvents, VersionPublished
from ais.contracts.keys import Keys
from ais.contracts.model_identity import identify_model
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.registry import ReplicaRegistry
from ais.contracts.trajectory import ScoredGroup, TrajectoryBounds, decode_group
from ais.runtime.security.roles import Role
from ais.runtime.settings import RunSettings
from tests.support.access import credential
from tests.support.judges import own_judge
from tests.support.recordings import recorded_group, recording
from tests.support.replicas.replica_process import overrides, process
from tests.support.tiny_models import until

MODEL = Path(__file__).parents[3] / "examples/sort16/model"
SAMPLES = 4
LENGTHS = [4, 6, 8, 40]
"""Lengths of the responses, in tokens: the last one keeps its group waiting."""
PACE = 100.0
"""Tokens a second of each sequence."""
SLOTS = 8


@dataclass
class Run:
    """One run without a trainer: whatever arrives in the queue is taken out and kept."""

    settings: RunSettings
    redis: Redis
    redis_url: str
    recording: Path
    groups: list[ScoredGroup] = field(default_factory=list)
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    replicas: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def keys(self) -> Keys:
        return Keys(self.settings.name)

    async def start_replica(self, stack: AsyncExitStack, *more: str) -> str:
        """Gives its id when the registry knows it."""
        registry = ReplicaRegistry(self.redis, self.keys)
        before = {record.replica_id for record in await registry.replicas()}
        settings = (
            "rollout.engine=replay",
            f"rollout.replay.recording={self.recording}",
            f"rollout.replay.tokens_per_second={PACE}",
            f"rollout.slots={SLOTS}",
            *more,
        )
        log = self.recording.parent / f"replica-{len(self.replicas)}.log"
        replica = await stack.enter_async_context(
            process(*overrides(MODEL, self.redis_url, self.settings.name, *settings), log=log)
        )
        async with asyncio.timeout(30):
            while not (new := {record.replica_id for record in await registry.replicas()} - before):
                assert replica.returncode is None, log.read_text()
                await asyncio.sleep(0.01)
        self.replicas[new.pop()] = replica
        return list(self.replicas)[-1]

    def sampled_by(self, replica_id: str) -> list[ScoredGroup]:
        return [group for group in self.groups if group.trajectories[0].replica_id == replica_id]

    def counted(self, outcome: str) -> float:
        return self.metrics.get_sample_value("ais_collector_groups_total", {"outcome": outcome}) or 0.0

    async def all_arrive(self) -> None:
        """Returns when every group is there that comes before any that has arrived by now, each of them once."""
        before = set(range(max(group.ordinal for group in self.groups)))
        await until(lambda: before <= {group.ordinal for group in self.groups})
        assert len({group.ordinal for group in self.groups}) == len(self.groups)

    async def take(self) -> None:
        queue = TrajectoryQueue(self.redis, self.keys)
        bounds = TrajectoryBounds(vocab_size=22)
        while True:
            entries = await queue.read(100, block_seconds=1)
            self.groups += [decode_group(entry.payload, bounds) for entry in entries]
            await queue.acknowledge({entry.entry_id: entry.ordinal for entry in entries})

    @asynccontextmanager
    async def collected(self) -> AsyncIterator[None]:
        """A collector at work."""
        queue, events = TrajectoryQueue(self.redis, self.keys), TrainerEvents(self.redis, self.keys)
        await queue.prepare()
        registry = ReplicaRegistry(self.redis, self.keys)
        (first, *_) = await registry.replicas()
        await events.publish(VersionPublished(0, first.policy_digest))
        settings = CollectorSettings(group_deadline_seconds=60, max_attempts=5)
        collector = Collector(
            self.settings,
            settings,
            Exercise(
                open_task(settings.task, 0, Split.TRAIN),
                open_tokenizer(MODEL, settings.prompt),
                own_judge(settings.task),
            ),
            TrainerChannel(queue, TrainerEvents(self.redis, self.keys)),
            registry,
            Expected(self.settings.name, identify_model(MODEL)),
            CollectorMetrics(self.metrics),
            credential(Role.COLLECTOR),
        )
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(collector.run(asyncio.Event()))
            taking = tasks.create_task(self.take())
            yield
            await events.publish(Finished(self.settings.steps))
            await asyncio.wait_for(collecting, 10)
            taking.cancel()


@pytest.fixture
def start_run(redis: Redis, redis_url: str, run_name: str, tmp_path: Path) -> Callable[[], Run]:
    """A run with more groups than are sampled while a slow machine starts a replica."""
    groups = 20_000

    def start() -> Run:
        settings = RunSettings(
            name=run_name,
            model=MODEL,
            steps=groups,
            groups_per_batch=1,
            samples_per_group=SAMPLES,
            max_staleness=groups,
        )
        return Run(settings, redis, redis_url, recording(tmp_path, recorded_group([3], LENGTHS)))

    return start


@pytest.mark.slow
async def test_one_replica_becomes_four_becomes_two_and_every_group_arrives_once(
    start_run: Callable[[], Run],
) -> None:
    run = start_run()
    async with AsyncExitStack() as stack:
        first = await run.start_replica(stack)
        async with run.collected():
            await until(lambda: len(run.sampled_by(first)) >= 4)
            second, third = [await run.start_replica(stack) for _ in range(2)]
            fourth = await run.start_replica(stack, "rollout.drain_seconds=0")
            await until(lambda: all(run.sampled_by(one) for one in (second, third, fourth)))

            run.replicas[first].kill()
            run.replicas[fourth].send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(run.replicas[fourth].wait(), 10) == 0
            await until(lambda: run.counted("failed") > 0 and run.counted("handed_back") > 0)
            await run.all_arrive()
    again = [group for group in run.groups if group.attempt > 1]
    assert again
    assert {group.trajectories[0].replica_id for group in again} <= {second, third}
    for group in run.groups:
        assert [len(trajectory.token_ids) for trajectory in group.trajectories] == LENGTHS
        assert {trajectory.trajectory_id.rpartition("/")[0] for trajectory in group.trajectories} == {group.group_id}


@pytest.mark.slow
async def test_a_replica_that_drains_finishes_its_groups_and_nothing_is_sampled_twice(
    start_run: Callable[[], Run],
) -> None:
    run = start_run()
    async with AsyncExitStack() as stack:
        leaver = await run.start_replica(stack, "rollout.drain_seconds=30")
        async with run.collected():
            await until(lambda: len(run.sampled_by(leaver)) >= 2)
            stayer = await run.start_replica(stack)
            run.replicas[leaver].send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(run.replicas[leaver].wait(), 20) == 0
            await until(lambda: len(run.sampled_by(stayer)) > 0)
            await run.all_arrive()
    assert run.counted("failed") == 0
    refused = [group for group in run.groups if group.attempt > 1]
    assert len(refused) == run.counted("handed_back")  # calls that crossed the signal on their way
    assert Counter(group.trajectories[0].replica_id for group in run.groups).keys() == {leaver, stayer}
