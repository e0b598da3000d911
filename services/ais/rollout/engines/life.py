"""What every engine does the same way: taking requests in, draining, failing, closing. An engine adds the sampling."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from ais.rollout.engine import Completion, EngineDrainingError, EngineFailedError, GenerationRequest, Sampled
from ais.rollout.engines.limits import Limits
from ais.runtime.tasks import end_tasks

Result = TypeVar("Result")


TELL_SECONDS = 0.05
"""Tokens of a streamed call are told no more often than that: a person who reads along sees no difference, and a
message costs as much for one token as for ten."""


class Call:
    """A request on its way through an engine. Use it in the event loop.

    Tokens that nobody has asked for yet are told together: a caller that is slow costs no more memory than what it was
    not told.
    """

    def __init__(self, request: GenerationRequest, streamed: bool) -> None:
        self.request = request
        self.streamed = streamed
        """Whether tokens are wanted as they are sampled."""
        self.unfinished = request.samples
        """Samples that have not been finished."""
        self._outcomes: deque[Sampled | Completion | Exception] = deque()
        self._untold: dict[int, tuple[list[int], list[float]]] = {}
        """Tokens and log-probs that no outcome has yet, by sample."""
        self._due = 0.0
        """When tokens may be told again, on time.monotonic's clock."""
        self._news, self._over = asyncio.Event(), asyncio.Event()

    def tell(self, sampled: Sampled) -> None:
        """Tokens of a sample that goes on, where the call is streamed."""
        tokens, logprobs = self._untold.setdefault(sampled.index, ([], []))
        tokens += sampled.token_ids
        logprobs += sampled.logprobs
        self._news.set()

    def finish(self, completion: Completion) -> None:
        """One sample is finished, in whatever order."""
        self.unfinished -= 1
        self._untold.pop(completion.index, None)
        self._add(completion)

    def fail(self, error: Exception) -> None:
        """The call ends with `error`, after what was finished before."""
        self._add(error)

    def _add(self, outcome: Completion | Exception) -> None:
        self._outcomes.append(outcome)
        self._news.set()
        self._over.set()

    async def outcome(self) -> Sampled | Completion:
        """The next finished sample, or tokens of one. Raises what the call failed with."""
        while not self._outcomes:
            await self._some_news()
        outcome = self._outcomes.popleft()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _some_news(self) -> None:
        """Returns when there is an outcome, or tokens were told that are due."""
        self._news.clear()
        self._over.clear()
        if not self._untold:
            await self._news.wait()
            return
        if (pause := self._due - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._over.wait()
        if not self._outcomes:
            self._due = time.monotonic() + TELL_SECONDS
            told, self._untold = self._untold, {}
            for index, (tokens, logprobs) in told.items():
                self._outcomes.append(Sampled(index, tuple(tokens), tuple(logprobs)))


class EngineLife(ABC):
    """The part of `ais.rollout.engine.Engine` that does not depend on how an engine samples.

    A new engine implements `sample` and `release`, and the protocol's `swap_weights`, `describe` and `load`. Make it
    inside the event loop that will use it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._calls: set[Call] = set()
        self._settled = asyncio.Event()
        self._settled.set()
        self._draining = False
        self._failure: asyncio.Future[EngineFailedError] = asyncio.get_running_loop().create_future()

    @abstractmethod
    async def sample(self, call: Call) -> None:
        """Samples all of a call and tells it of each finished sample. What it raises, the call fails with.

        It is cancelled when the call ends early, and must free what the call holds before it ends.
        """

    @abstractmethod
    async def release(self) -> None:
        """Frees what the engine holds. Called once, after every call has failed."""

    @property
    def outstanding(self) -> int:
        """Samples that were taken in and are not finished."""
        return sum(call.unfinished for call in self._calls)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Completion]:
        """See the protocol."""
        async with aclosing(self._outcomes(request, streamed=False)) as outcomes:
            async for outcome in outcomes:
                assert isinstance(outcome, Completion)  # nothing else was asked for
                yield outcome

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Sampled | Completion]:
        """See the protocol."""
        async with aclosing(self._outcomes(request, streamed=True)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def _outcomes(self, request: GenerationRequest, streamed: bool) -> AsyncGenerator[Sampled | Completion]:
        if self._failure.done():
            raise self._failure.result()
        if self._draining:
            raise EngineDrainingError("this replica is draining and takes no new work")
        self._limits.check(request, self.outstanding)
        call = Call(request, streamed)
        self._calls.add(call)
        self._settled.clear()
        sampling = asyncio.create_task(self.sample(call))
        sampling.add_done_callback(lambda task: _fail_with(call, task))
        try:
            finished = 0
            while finished < request.samples:
                outcome = await call.outcome()
                finished += isinstance(outcome, Completion)
                yield outcome
        finally:
            await end_tasks(sampling)
            self._calls.discard(call)
            if not self._calls:
                self._settled.set()

    def on_failure(self, callback: Callable[[EngineFailedError], None]) -> None:
        """See the protocol."""
        self._failure.add_done_callback(lambda failure: callback(failure.result()))

    def fail(self, failure: EngineFailedError) -> None:
        """The engine can do no more: every call fails with the first failure, those that come later too."""
        if not self._failure.done():
            self._failure.set_result(failure)
        self._end_calls(self._failure.result())

    async def unless_it_fails(self, result: asyncio.Future[Result]) -> Result:
        """Waits for `result`. Raises EngineFailedError when the engine fails before it is there."""
        await asyncio.wait((result, self._failure), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise self._failure.result()
        return result.result()

    async def drain(self, deadline_seconds: float) -> None:
        """See the protocol."""
        self._draining = True
        try:
            await asyncio.wait_for(self._settled.wait(), deadline_seconds)
        except TimeoutError:
            self._end_calls(EngineDrainingError(f"not finished {deadline_seconds:g} s after the drain began"))

    async def close(self) -> None:
        """See the protocol."""
        self.fail(EngineFailedError("the engine was closed while the request was running"))
        await self.release()

    def _end_calls(self, error: Exception) -> None:
        for call in self._calls:
            call.fail(error)


async def sample_each(call: Call, sample: Callable[[int], Awaitable[Completion]]) -> None:
    """For an engine whose samples do not know each other: `sample(index)` of each at once, cancelled with the call."""
    samples = [asyncio.ensure_future(sample(index)) for index in range(call.request.samples)]
    for one in samples:
        one.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen: the first one is told
    try:
        for finished in asyncio.as_completed(samples):
            call.finish(await finished)
    finally:
        await end_tasks(*samples)


def _fail_with(call: Call, sampling: asyncio.Task[None]) -> None:
    if not sampling.cancelled() and isinstance(error := sampling.exception(), Exception):
        call.fail(error)
