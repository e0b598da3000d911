"""What every engine does the same way, seen on one that only samples when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ais.contracts.sampling import FinishReason
from ais.rollout.engine import (
    Completion,
    EngineDescription,
    EngineDrainingError,
    EngineFailedError,
    EngineFullError,
    EngineLoad,
    Sampled,
    WeightSwap,
)
from ais.rollout.engines import life
from ais.rollout.engines.life import Call, EngineLife, sample_each
from ais.rollout.engines.limits import Limits
from tests.support.tiny_models import collect, request_for, until

PROMPT = (1, 2, 3)


class ToldEngine(EngineLife):
    """A sample is finished when its event is set, or fails with the error that stands for it."""

    def __init__(self) -> None:
        super().__init__(Limits(vocab_size=10, max_model_len=16, room=8))
        self.told = [asyncio.Event() for _ in range(8)]
        self.errors: dict[int, Exception] = {}
        self.tokens: tuple[int, ...] = ()
        """What each sample of a streamed call has before it is finished."""
        self.inside = 0
        self.released = 0

    async def sample(self, call: Call) -> None:
        if call.streamed:
            for index in range(call.request.samples):
                call.tell(Sampled(index, self.tokens, (-0.5,) * len(self.tokens)))
        await sample_each(call, self._one)

    async def release(self) -> None:
        self.released += 1

    async def swap_weights(self, version: int, digest: str, files: Sequence[Path]) -> WeightSwap:
        raise NotImplementedError

    def describe(self) -> EngineDescription:
        raise NotImplementedError

    def load(self) -> EngineLoad:
        raise NotImplementedError

    async def _one(self, index: int) -> Completion:
        self.inside += 1
        try:
            await self.told[index].wait()
            if index in self.errors:
                raise self.errors[index]
            return Completion(index, np.zeros(1, np.int32), np.zeros(1, np.float32), (), FinishReason.STOP, 0.0, 0.0)
        finally:
            self.inside -= 1


async def test_samples_come_as_they_are_finished_and_what_is_left_counts_as_outstanding() -> None:
    engine = ToldEngine()
    completions = engine.generate(request_for(PROMPT, samples=3))
    for left, index in enumerate((2, 0, 1)):
        engine.told[index].set()
        assert (await anext(completions)).index == index
        assert engine.outstanding == 2 - left
    with pytest.raises(StopAsyncIteration):
        await anext(completions)


async def test_a_streamed_call_gets_tokens_before_what_is_finished_and_others_get_none() -> None:
    engine = ToldEngine()
    engine.tokens = (4, 5)
    streamed = engine.stream(request_for(PROMPT, samples=2))
    assert [await anext(streamed) for _ in range(2)] == [Sampled(index, (4, 5), (-0.5, -0.5)) for index in range(2)]
    for index in range(2):
        engine.told[index].set()
    finished = [outcome async for outcome in streamed]
    assert sorted(one.index for one in finished) == [0, 1]
    assert all(isinstance(one, Completion) for one in [*finished, *await collect(engine, request_for(PROMPT))])
    assert engine.outstanding == 0


async def test_tokens_that_a_slow_caller_has_not_asked_for_are_told_together() -> None:
    call = Call(request_for(PROMPT), streamed=True)
    told = [Sampled(0, (token,), (-float(token),)) for token in range(1000)]
    call.tell(told[0])
    assert await call.outcome() == told[0]
    for one in told[1:]:
        call.tell(one)
    assert await call.outcome() == Sampled(0, tuple(range(1, 1000)), tuple(-float(token) for token in range(1, 1000)))


async def test_what_is_finished_does_not_wait_for_the_time_to_tell_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "TELL_SECONDS", 1e6)
    call = Call(request_for(PROMPT), streamed=True)
    call.tell(Sampled(0, (4,), (-0.5,)))
    await call.outcome()
    call.tell(Sampled(0, (5,), (-0.5,)))
    waiting = asyncio.ensure_future(call.outcome())
    await asyncio.sleep(0)
    finished = Completion(0, np.array([4, 5, 6]), np.full(3, -0.5), (), FinishReason.STOP, 0.0, 0.0)
    call.finish(finished)
    assert await waiting is finished


async def test_outstanding_samples_take_room_until_their_call_ends() -> None:
    engine = ToldEngine()
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=6)))
    await until(lambda: engine.inside == 6)
    with pytest.raises(EngineFullError):
        await collect(engine, request_for(PROMPT, samples=3))
    running.cancel()
    await asyncio.wait([running])
    assert (engine.outstanding, engine.inside) == (0, 0)


async def test_an_error_of_one_sample_ends_its_call_and_no_other() -> None:
    engine = ToldEngine()
    engine.errors[1] = ValueError("this one")
    failing = asyncio.create_task(collect(engine, request_for(PROMPT, samples=3)))
    other = asyncio.create_task(collect(engine, request_for(PROMPT, samples=1)))
    await until(lambda: engine.inside == 4)
    engine.told[1].set()
    with pytest.raises(ValueError, match="this one"):
        await failing
    assert engine.inside == 1
    engine.told[0].set()
    assert len(await other) == 1


async def test_a_drain_waits_for_what_runs_and_hands_back_the_rest_at_the_deadline() -> None:
    engine = ToldEngine()
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=2)))
    await until(lambda: engine.inside == 2)
    draining = asyncio.create_task(engine.drain(30))
    await asyncio.sleep(0)
    with pytest.raises(EngineDrainingError):
        await collect(engine, request_for(PROMPT))
    assert not draining.done()
    engine.told[0].set()
    await engine.drain(0.01)
    with pytest.raises(EngineDrainingError, match=r"0\.01 s"):
        await running
    assert engine.inside == 0
    await asyncio.wait_for(draining, 20)


@pytest.mark.parametrize("ending", ["close", "failure"])
async def test_an_engine_that_ends_fails_what_runs_and_what_comes_and_tells_once(ending: str) -> None:
    engine = ToldEngine()
    told: list[EngineFailedError] = []
    engine.on_failure(told.append)
    running = asyncio.create_task(collect(engine, request_for(PROMPT, samples=2)))
    await until(lambda: engine.inside == 2)
    if ending == "failure":
        engine.fail(EngineFailedError("the first reason"))
    await engine.close()
    reason = "the first reason" if ending == "failure" else "closed"
    for asked in (running, collect(engine, request_for(PROMPT))):
        with pytest.raises(EngineFailedError, match=reason):
            await asked
    assert [str(failure) for failure in told] == [str(told[0])]
    assert (engine.inside, engine.released) == (0, 1)


async def test_waiting_for_a_result_ends_when_the_engine_fails() -> None:
    engine = ToldEngine()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()
    done.set_result(7)
    assert await engine.unless_it_fails(done) == 7
    waiting = asyncio.create_task(engine.unless_it_fails(loop.create_future()))
    await asyncio.sleep(0)
    engine.fail(EngineFailedError("broken"))
    with pytest.raises(EngineFailedError, match="broken"):
        await waiting
