"""One worker process as the collector sees it: asked one thing at a time, killed with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
import struct
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ais.collector.environments.calls import Answer, Reset
from ais.collector.judging.judgement import Failure, Judgement, Outcome
from ais.collector.judging.replies import WorkerDiedError, failure_in, judgement_in, reply_in
from ais.collector.prompts.prompts import Prompt
from ais.collector.rewards.response import Response
from ais.collector.settings import ReasoningGymDataset
from ais.collector.settings.environments import EnvironmentSettings
from ais.collector.settings.rewards import Component
from ais.runtime.process import UnavailableError

START_SECONDS = 120.0
"""A worker that cannot judge by then, libraries imported, has failed."""
END_SECONDS = 10.0
"""A worker's keeper that has not killed it by then is killed itself."""
LONGEST_REPLY = 2 * 1024 * 1024
"""Bytes of a worker's reply: an environment and what it says are the longest."""

Place = tuple[str, int]
"""A source, and the place of a component in its reward."""
Verifiers = Mapping[Place, tuple[Component, Iterable[ReasoningGymDataset]]]
"""What a worker opens: components, and the datasets of reasoning-gym that their prompts come from."""
Environments = Mapping[str, EnvironmentSettings]
"""By source of the prompts."""


class Worker:
    """One worker process, and the next one when it had to be killed."""

    def __init__(self, verifiers: Verifiers, environments: Environments, memory_megabytes: int) -> None:
        self._beginning = {
            "verifiers": dict(verifiers),
            "environments": dict(environments),
            "memory_megabytes": memory_megabytes,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._ending: asyncio.Future[None] | None = None

    @property
    def process(self) -> asyncio.subprocess.Process | None:
        """The keeper of the worker that runs; None when none does."""
        return self._process

    async def start(self) -> None:
        """Starts the process unless it runs. Raises UnavailableError."""
        if self._process is not None and self._process.returncode is None:
            return
        command = [sys.executable, "-m", "ais.collector.judging.keeper"]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LONGEST_REPLY
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                reply = await self._ask(self._beginning)
        except (TimeoutError, WorkerDiedError) as error:
            await self.end()
            reason = str(error) or f"not within {START_SECONDS:g} s"
            raise UnavailableError(f"a worker that judges responses does not start: {reason}") from error
        except BaseException:
            await self.end()
            raise
        if "refused" in reply:
            await self.end()
            raise UnavailableError(str(reply["refused"]))

    async def judge(self, place: Place, prompt: Prompt, response: Response, seconds: float) -> Judgement:
        """Raises as `told`."""
        reply = await self.told((*place, prompt, response), seconds)
        return reply if isinstance(reply, Failure) else judgement_in(reply)

    async def told(self, request: tuple[object, ...] | Reset | Answer, seconds: float) -> dict[str, Any] | Failure:
        """What the worker says to a request, unchecked but for failures.

        After a failure that leaves the process in doubt, and when this is cancelled, the process and all that it
        started are gone, and the next call starts another. Raises UnavailableError when that does not start.
        """
        await self.start()
        try:
            async with asyncio.timeout(seconds):
                reply = await self._ask(request)
        except TimeoutError:
            await self.end()
            return Failure(Outcome.OVERTIME, f"judging took longer than {seconds:g} s")
        except WorkerDiedError as error:
            await self.end()
            return Failure(Outcome.DIED, str(error))
        except BaseException:
            await self.end()
            raise
        if "failed" not in reply:
            return reply
        failure = failure_in(reply)
        if failure.outcome in (Outcome.MEMORY, Outcome.LEFT_PROCESSES):
            await self.end()  # what is left of its memory may be in pieces
        return failure

    async def end(self) -> None:
        """Kills the process and all that it started, and returns when they are gone."""
        if (process := self._process) is not None:
            self._process = None
            self._ending = asyncio.ensure_future(ended(process))
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _ask(self, message: object) -> dict[str, Any]:
        assert self._process is not None
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None
        assert writer is not None
        packed = pickle.dumps(message)
        with contextlib.suppress(ConnectionError):  # it may have said why it ended
            writer.write(struct.pack("<Q", len(packed)) + packed)
            await writer.drain()
        try:
            line = await reader.readline()
        except (ConnectionError, ValueError):  # ValueError: a reply without an end
            line = b""
        if not line.endswith(b"\n"):
            raise WorkerDiedError(f"the worker's process ended{await self._how_it_ended()}")
        return reply_in(line)

    async def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            async with asyncio.timeout(END_SECONDS):
                code = await self._process.wait()
        except TimeoutError:
            return ""
        number = code - 128 if code > 128 else -code
        return f" by {signal.Signals(number).name}" if number in set(signal.Signals) else f" with exit code {code}"


async def ended(process: asyncio.subprocess.Process) -> None:
    """Has a keeper kill all that it keeps, and returns when that and the keeper are gone."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
