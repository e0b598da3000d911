"""What the vLLM engine does with requests that a drain does not finish; vLLM itself is one that never answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from ais.rollout.engine import Engine, EngineDrainingError
from ais.rollout.settings import RolloutSettings
from tests.support.tiny_models import collect, request_for, until

pytestmark = pytest.mark.vllm


class Endless:
    """The part of vLLM's client that sampling needs."""

    errored = False
    running = 0

    async def generate(self, *_: object) -> AsyncIterator[object]:
        Endless.running += 1
        try:
            await asyncio.Event().wait()
            yield
        finally:
            Endless.running -= 1


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    from ais.rollout.engines.vllm_engine.engine import VllmEngine
    from ais.rollout.engines.vllm_engine.model import ServedModel

    model = ServedModel("0", "qwen3", 22, 64, False, True, (2,), {}, (), "blake3:0")
    settings = RolloutSettings(engine="vllm", slots=4)
    opened = VllmEngine(Endless(), model, settings, MagicMock(), [], tmp_path, ExitStack())
    yield opened
    await opened.close()


async def test_what_a_drain_does_not_finish_in_time_is_handed_back_and_vllm_lets_go_of_it(engine: Engine) -> None:
    running = asyncio.create_task(collect(engine, request_for((3, 4, 5), samples=3)))
    await until(lambda: Endless.running == 3)
    await engine.drain(deadline_seconds=0.01)
    with pytest.raises(EngineDrainingError):
        await running
    assert Endless.running == 0
    with pytest.raises(EngineDrainingError):
        await collect(engine, request_for((3, 4, 5)))


async def test_a_caller_that_goes_away_takes_its_samples_along(engine: Engine) -> None:
    running = asyncio.create_task(collect(engine, request_for((3, 4, 5), samples=3)))
    await until(lambda: Endless.running == 3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert Endless.running == 0
