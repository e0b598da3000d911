"""Judges responses and runs environments in worker processes with a limit of time and of memory: no response can stop
the collector.

A worker is a Python of its own, started with exec and not forked from a process with gRPC's threads. It does one thing
at a time. One that takes too long is killed with all that it started, and the next request gets a new one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from ais.collector.environments.calls import Answer, EnvironmentFaultError, Reset
from ais.collector.judging.judgement import Failure, Judgement, Observe, Outcome, unobserved
from ais.collector.judging.process import Environments, Place, Verifiers, Worker
from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.response import Response
from ais.collector.settings import JudgingSettings
from ais.collector.settings.environments import EPISODE

Read = TypeVar("Read")


class JudgePool:
    """As many workers as the settings say. Use it as an async context manager."""

    def __init__(
        self,
        verifiers: Verifiers,
        settings: JudgingSettings,
        observe: Observe = unobserved,
        environments: Environments | None = None,
    ) -> None:
        self._settings = settings
        self._observe = observe
        self._names = {place: component.label for place, (component, _) in verifiers.items()}
        self.workers = [
            Worker(verifiers, environments or {}, settings.memory_megabytes) for _ in range(settings.workers)
        ]
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        """Raises UnavailableError when a worker cannot start, with its reason."""
        try:
            await asyncio.gather(*(worker.start() for worker in self.workers))
        except BaseException:
            await self._end()
            raise
        for worker in self.workers:
            self._idle.put_nowait(worker)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()

    @property
    def idle(self) -> int:
        """Workers that judge nothing now."""
        return self._idle.qsize()

    async def judge(self, place: Place, prompt: Prompt, response: Response) -> Judgement:
        """Raises UnavailableError when a worker that was lost cannot be started again."""
        async with self._worker() as worker:
            began = time.monotonic()
            judgement = await worker.judge(place, prompt, response, self._settings.seconds)
        self._told(self._names[place], judgement, began)
        return judgement

    async def call(self, request: Reset | Answer, read: Callable[[Mapping[str, Any]], Read]) -> Read | Failure:
        """What an environment says, as `read` takes it; that raises EnvironmentFaultError or KeyError for what is none.

        Raises as `judge`.
        """
        async with self._worker() as worker:
            began = time.monotonic()
            reply = await worker.told(request, self._settings.seconds)
        said = reply if isinstance(reply, Failure) else _read(read, reply)
        self._told(EPISODE, said, began)
        return said

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[Worker]:
        worker = await self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put_nowait(worker)

    def _told(self, name: str, reply: object, began: float) -> None:
        outcome = reply.outcome if isinstance(reply, Failure) else Outcome.JUDGED
        self._observe(name, outcome, time.monotonic() - began)

    async def _end(self) -> None:
        await asyncio.gather(*(worker.end() for worker in self.workers))


def _read(read: Callable[[Mapping[str, Any]], Read], reply: Mapping[str, Any]) -> Read | Failure:
    try:
        return read(reply)
    except (EnvironmentFaultError, KeyError) as error:
        return Failure(Outcome.ERROR, f"the worker's reply is none of an environment: {error}")
