"""The trainer service against a real Valkey server, with a stand-in collector and stand-in replicas."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from transformers import AutoModelForCausalLM

from ais.contracts.events import Discarded, Finished, Resumed, VersionPublished
from ais.contracts.keys import Keys
from ais.contracts.queue import TrajectoryQueue
from ais.contracts.weights.offer import digest_of
from ais.runtime.security.roles import Role
from ais.runtime.settings import RunSettings
from ais.runtime.tasks import end_tasks
from ais.trainer.demo.demo_model import demo_model, demo_tokenizer, save_tokenizer
from ais.trainer.history import ledger
from ais.trainer.history.checkpoint import CheckpointStore
from ais.trainer.service import serve_trainer
from ais.trainer.settings import Settings
from tests.support.access import bearer, tokens
from tests.support.collector_stand_in import StandInCollector
from tests.support.replicas.replica_stand_ins import Fleet
from tests.support.runs.lines import whole_lines
from tests.support.trainer_settings import nested


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    demo_model(seed=0).save_pretrained(directory)
    save_tokenizer(demo_tokenizer(), directory)
    return directory


@pytest.fixture
def settings(redis_url: str, run_name: str, model_directory: Path, tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "run": {
                "name": run_name,
                "directory": tmp_path,
                "model": model_directory,
                "steps": 4,
                "groups_per_batch": 3,
                "samples_per_group": 4,
            },
            "redis": {"url": redis_url},
            "security": {"tokens": tokens()},
            "trainer": nested(every_steps=2, registry_poll_seconds=0.05, warmup_steps=2),
        }
    )


def steps_of(run: RunSettings) -> list[dict[str, Any]]:
    return whole_lines(run.path / "steps.jsonl")


async def train(settings: Settings, collector: StandInCollector) -> None:
    """Runs trainer and collector to their end."""
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(collector.run())
        tasks.create_task(serve_trainer(settings, asyncio.Event()))


async def test_a_run_trains_every_batch_in_order_and_leaves_nothing_behind(
    settings: Settings, redis: Redis, fleet: Fleet, keys: Keys
) -> None:
    run = settings.run
    replica = await fleet.join("replica-0")
    collector = StandInCollector(redis, run)
    await train(settings, collector)

    steps = steps_of(run)
    assert [step["version"] for step in steps] == [1, 2, 3, 4]
    assert [step["ordinals"] for step in steps] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert all(step["skipped_updates"] == 0 and step["gradient_norm"] > 0 for step in steps)
    assert max(step["staleness_max"] for step in steps) <= run.max_staleness
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4]
    assert all(sample["ordinal"] in steps[sample["step"] - 1]["ordinals"] for sample in samples)
    assert all(sum(step["phase_seconds"].values()) == pytest.approx(step["step_seconds"]) for step in steps)

    assert isinstance(collector.events[0], Resumed)
    versions = [event for event in collector.events if isinstance(event, VersionPublished)]
    assert [event.version for event in versions] == [1, 2, 3, 4]
    assert collector.events[-1] == Finished(4)
    assert await TrajectoryQueue(redis, keys).depth() == 0

    weights = (run.path / "model/model.safetensors").read_bytes()
    assert digest_of(weights) == steps[-1]["digest"] == versions[-1].digest
    assert replica.version == 4
    assert replica.payload == weights
    assert AutoModelForCausalLM.from_pretrained(run.path / "model").num_parameters() == 101_568


async def test_a_trainer_whose_logits_are_computed_otherwise_than_the_replicas_says_so_at_once(
    settings: Settings, redis: Redis, fleet: Fleet
) -> None:
    run = settings.run.model_copy(update={"steps": 1})
    trainer = settings.trainer.model_copy(update={"float32_head": True})
    await fleet.join("replica-0")
    await train(settings.model_copy(update={"run": run, "trainer": trainer}), StandInCollector(redis, run))
    (told,) = [line for line in whole_lines(run.path / "warnings.jsonl") if line["kind"] == "head_differs"]
    assert told["version"] == 0
    assert "logits in BF16, the trainer in float32" in told["message"]


async def test_checkpoints_name_each_group_once(settings: Settings, redis: Redis) -> None:
    await train(settings, StandInCollector(redis, settings.run))
    manifests = [
        json.loads((settings.run.path / f"checkpoints/step-{step:06d}/manifest.json").read_text()) for step in (2, 4)
    ]
    assert [manifest["ordinals"] for manifest in manifests] == [list(range(6)), list(range(6, 12))]
    assert [manifest["version"] for manifest in manifests] == [2, 4]


async def test_a_checkpoint_that_cannot_be_written_acknowledges_nothing(
    settings: Settings, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_is_full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "commit", disk_is_full)
    collector = asyncio.create_task(StandInCollector(redis, settings.run).run())
    with pytest.raises(OSError, match="No space"):
        await serve_trainer(settings, asyncio.Event())
    await end_tasks(collector)
    trained = {ordinal for step in steps_of(settings.run) for ordinal in step["ordinals"]}
    pending = await TrajectoryQueue(redis, keys, incarnation=1).read_pending(100)
    assert trained >= {0, 1, 2, 3, 4, 5}
    assert {entry.ordinal for entry in pending} >= trained


async def test_a_malformed_group_goes_to_the_dead_letters_and_comes_again(
    settings: Settings, redis: Redis, keys: Keys
) -> None:
    collector = StandInCollector(redis, settings.run, corrupt=lambda ordinal: b"\xff\xff" if ordinal == 4 else None)
    await train(settings, collector)
    (discarded,) = [event for event in collector.events if isinstance(event, Discarded)]
    assert discarded.ordinal == 4
    assert "is not a ScoredGroup message" in discarded.reason
    assert [step["version"] for step in steps_of(settings.run)] == [1, 2, 3, 4]
    assert await redis.xlen(keys.dead_letters) == 1


async def test_a_group_that_comes_again_after_it_was_committed_is_not_trained_twice(
    settings: Settings, redis: Redis, keys: Keys
) -> None:
    class Repeating(StandInCollector):
        async def _publish_admitted(self) -> None:
            if self._version >= 2:
                await self.publish(0)
            await super()._publish_admitted()

    await train(settings, Repeating(redis, settings.run))
    trained = [ordinal for step in steps_of(settings.run) for ordinal in step["ordinals"]]
    assert trained == list(range(12))


async def test_a_stop_commits_what_is_trained_and_keeps_the_rest_in_the_queue(
    settings: Settings, redis: Redis, keys: Keys
) -> None:
    run = settings.run
    stop = asyncio.Event()
    events = StandInCollector(redis, run)
    collector = asyncio.create_task(events.run())
    trainer = asyncio.create_task(serve_trainer(settings, stop))
    async with asyncio.timeout(60):
        while not (run.path / "steps.jsonl").exists():
            await asyncio.sleep(0.01)
        stop.set()
        await trainer
    await end_tasks(collector)
    trained = [ordinal for step in steps_of(run) for ordinal in step["ordinals"]]
    committed = [ordinal for commit in ledger.read(run.path) for ordinal in commit.ordinals]
    assert committed == trained
    (last,) = ledger.read(run.path)[-1:]
    pending = {entry.entry_id for entry in await TrajectoryQueue(redis, keys, incarnation=1).read_pending(100)}
    assert set(last.entry_ids) <= pending


async def test_metrics_and_readiness_are_served_while_training(
    settings: Settings, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    stop = asyncio.Event()
    collector = asyncio.create_task(StandInCollector(redis, settings.run.model_copy(update={"steps": 2})).run())
    with caplog.at_level("INFO"):
        trainer = asyncio.create_task(serve_trainer(settings, stop))
        async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False, headers=bearer(Role.METRICS)) as client:
            text = ""
            while "ais_trainer_steps_total 2.0" not in text:
                urls = [record.url for record in caplog.records if record.message == "listening"]
                if urls:
                    text = (await client.get(f"{urls[0]}/metrics")).text
                await asyncio.sleep(0.02)
            assert (await client.get(f"{urls[0]}/readyz")).status_code == 200
            stop.set()
            await trainer
    await end_tasks(collector)
    for name in (
        "ais_mixing_coefficient ",
        "ais_mixed_weight_mean ",
        "ais_weighted_gradient_share ",
        "ais_weight_slope ",
        "ais_effective_sequences ",
        "ais_limited_weight_share ",
        'ais_correction_concern{concern="uncorrected"}',
        'ais_effective_sample_size_ratio{weights="applied"}',
        'ais_effective_sample_size_ratio{weights="raw"}',
        "ais_log_ratio_abs_mean ",
        "ais_ratio_coefficient_of_variation ",
        'ais_kl_divergence{estimator="k3"}',
        "ais_reward_mean ",
        "ais_entropy_nats ",
        "ais_gradient_norm ",
        "ais_staleness_versions_bucket",
        "ais_queue_depth_groups ",
        'ais_trainer_phase_seconds_count{phase="forward_backward"} 2.0',
        "ais_trainer_tokens_total ",
        "ais_policy_version 2.0",
        'ais_skipped_steps_total{reason="not_finite"} 0.0',
    ):
        assert name in text, name
