"""`python -m ais.trainer` as the launcher sees it: exit codes and messages."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from redis.asyncio import Redis

from ais.contracts.events import Resumed, TrainerEvents
from ais.contracts.keys import Keys
from ais.trainer.demo.demo_model import demo_model


async def start(*settings: str) -> asyncio.subprocess.Process:
    overrides = [argument for setting in settings for argument in ("--set", setting)]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ais.trainer", *overrides, stderr=asyncio.subprocess.PIPE
    )


async def end(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    return process.returncode, errors.decode()


async def test_a_misspelt_setting_ends_the_trainer_with_code_2_and_the_nearest_name() -> None:
    returncode, errors = await end(await start("trainer.learning_rte=1"))
    assert returncode == 2
    assert "did you mean trainer.optimizer.learning_rate?" in errors


async def test_a_signal_ends_a_waiting_trainer_with_code_0(
    redis: Redis, redis_url: str, keys: Keys, run_name: str, tmp_path: Path
) -> None:
    demo_model(seed=0).save_pretrained(tmp_path / "model")
    process = await start(
        f"run.name={run_name}", f"run.model={tmp_path}/model", f"run.directory={tmp_path}", f"redis.url={redis_url}"
    )
    events = TrainerEvents(redis, keys)
    async with asyncio.timeout(60):
        while not (published := await events.follow(1.0)):
            pass
    assert isinstance(published[0], Resumed)
    process.send_signal(signal.SIGTERM)
    returncode, errors = await end(process)
    assert (returncode, "Traceback" in errors) == (0, False), errors
