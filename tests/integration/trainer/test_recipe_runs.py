"""The trainer's part of the examples, on the demo's model: their settings train and leave what they promise."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ais.settings import load
from ais.trainer.demo.demo_model import demo_model, demo_tokenizer, save_tokenizer
from ais.trainer.service import serve_trainer
from ais.trainer.settings import Settings
from tests.support.collector_stand_in import StandInCollector

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize(("example", "adapter"), [("reference-kl", False), ("smollm2-lora", True)])
async def test_an_examples_trainer_trains(
    example: str, adapter: bool, redis: Redis, redis_url: str, run_name: str, tmp_path: Path
) -> None:
    demo_model(seed=0).save_pretrained(tmp_path / "source")
    save_tokenizer(demo_tokenizer(), tmp_path / "source")
    everything = load(EXAMPLES / example / "config.toml").model_dump()
    run = {"name": run_name, "directory": tmp_path, "model": tmp_path / "source", "steps": 3, "groups_per_batch": 3}
    settings = Settings.model_validate(
        {
            "run": {**everything["run"], **run, "samples_per_group": 4},
            "redis": {"url": redis_url},
            "trainer": {**everything["trainer"], "push": {"final_seconds": 0}},
        }
    )
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(StandInCollector(redis, settings.run).run())
        tasks.create_task(serve_trainer(settings, asyncio.Event()))
    steps = [json.loads(line) for line in (settings.run.path / "steps.jsonl").read_text().splitlines()]
    assert [step["updates"] for step in steps] == [1, 1, 1]
    assert (steps[-1]["reference_kl"] is not None) == (not adapter)
    assert (settings.run.path / "model" / "adapter" / "adapter_config.json").exists() == adapter
