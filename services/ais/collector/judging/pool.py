"""Judges responses in worker processes with a limit of time and of memory: no response can stop the collector.

A worker is a Python of its own, started with exec and not forked from a process with gRPC's threads. It judges one
response at a time. One that takes too long is killed, and the next response gets a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import pickle
import struct
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from ais.collector.prompts.prompts import Prompt
from ais.collector.settings import JudgingSettings, TaskSettings
from ais.contracts.sampling import FinishReason
from ais.runtime.process import UnavailableError

START_SECONDS = 120.0
"""A worker that cannot judge by then, libraries imported, has failed."""
LONGEST_REPLY = 64 * 1024
"""Bytes of a worker's reply."""

logger = logging.getLogger(__name__)


class Outcome(StrEnum):
    """What became of a judgement."""

    JUDGED = "judged"
    OVERTIME = "overtime"
    """It took longer than collector.judging.seconds."""
    MEMORY = "memory"
    """It needed more than collector.judging.memory_megabytes."""
    ERROR = "error"
    """The verifier raised an error, or gave what is no reward."""
    DIED = "died"
    """The worker's process ended."""


Observe = Callable[[Outcome, float], None]
"""Is told the outcome of each judgement by a worker, and the seconds it took."""


def unobserved(outcome: Outcome, seconds: float) -> None:
    """For those who do not count judgements."""


class JudgementError(Exception):
    """A response could not be judged."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class JudgePool:
    """As many workers as the settings say. Use it as an async context manager."""

    def __init__(self, task: TaskSettings, settings: JudgingSettings, observe: Observe = unobserved) -> None:
        self._settings = settings
        self._observe = observe
        self._workers = [Worker(task, settings.memory_megabytes) for _ in range(settings.workers)]
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        """Raises UnavailableError when a worker cannot start, with its reason."""
        try:
            await asyncio.gather(*(worker.start() for worker in self._workers))
        except BaseException:
            await self._end()
            raise
        for worker in self._workers:
            self._idle.put_nowait(worker)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()

    async def rewards(self, prompt: Prompt, responses: Sequence[tuple[str, FinishReason]]) -> tuple[float, ...]:
        """A reward for each response, in order. Raises UnavailableError where a failed judgement ends the run."""
        return tuple(await asyncio.gather(*(self._reward(prompt, *response) for response in responses)))

    async def _reward(self, prompt: Prompt, text: str, finish_reason: FinishReason) -> float:
        worker = await self._idle.get()
        began = time.monotonic()
        try:
            reward = await worker.judge(prompt, text, finish_reason, self._settings.seconds)
        except JudgementError as error:
            return self._failed(error, prompt, time.monotonic() - began)
        finally:
            self._idle.put_nowait(worker)
        self._observe(Outcome.JUDGED, time.monotonic() - began)
        return reward

    def _failed(self, error: JudgementError, prompt: Prompt, seconds: float) -> float:
        self._observe(error.outcome, seconds)
        if self._settings.on_failure == "end":
            raise UnavailableError(
                f"a response to prompt {prompt.prompt_id!r} cannot be judged: {error} (collector.judging.on_failure)"
            ) from error
        logger.warning(
            "a response that cannot be judged gets no reward: %s",
            error,
            extra={"prompt": prompt.prompt_id, "outcome": error.outcome.value},
        )
        return 0.0

    async def _end(self) -> None:
        await asyncio.gather(*(worker.end() for worker in self._workers))


class Worker:
    """One worker process, and the next one when it had to be killed. Judges one response at a time."""

    def __init__(self, task: TaskSettings, memory_megabytes: int) -> None:
        self._beginning = {"task": task.model_dump(mode="json"), "memory_megabytes": memory_megabytes}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts the process unless it runs. Raises UnavailableError."""
        if self._process is not None and self._process.returncode is None:
            return
        command = [sys.executable, "-m", "ais.collector.judging.worker"]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LONGEST_REPLY
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                reply = await self._ask(self._beginning)
        except (TimeoutError, JudgementError) as error:
            await self.end()
            reason = str(error) or f"not within {START_SECONDS:g} s"
            raise UnavailableError(f"a worker that judges responses does not start: {reason}") from error
        except BaseException:
            await self.end()
            raise
        if "refused" in reply:
            await self.end()
            raise UnavailableError(str(reply["refused"]))

    async def judge(self, prompt: Prompt, text: str, finish_reason: FinishReason, seconds: float) -> float:
        """Raises JudgementError. After one that leaves the process in doubt, and when this is cancelled, the process is
        gone and the next call starts another; raises UnavailableError when that does not start."""
        await self.start()
        try:
            async with asyncio.timeout(seconds):
                reply = await self._ask((prompt, text, finish_reason))
        except TimeoutError as error:
            await self.end()
            raise JudgementError(Outcome.OVERTIME, f"judging took longer than {seconds:g} s") from error
        except BaseException:
            await self.end()
            raise
        if reply.get("failed") == "memory":
            await self.end()  # what is left of its memory may be in pieces
            raise JudgementError(Outcome.MEMORY, "judging needed more than collector.judging.memory_megabytes")
        return _reward_in(reply)

    async def end(self) -> None:
        """Kills the process, and returns when it is gone."""
        if (process := self._process) is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self._process = None

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
            raise JudgementError(Outcome.DIED, "the worker's process ended")
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise JudgementError(Outcome.ERROR, f"the worker's reply is not JSON: {line[:80]!r}") from error
        return reply


def _reward_in(reply: dict[str, Any]) -> float:
    if "failed" in reply:
        raise JudgementError(Outcome.ERROR, f"the verifier failed: {reply['failed']}")
    reward = reply.get("reward")
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise JudgementError(Outcome.ERROR, f"the verifier gave {reward!r}, which is no reward")
    return float(reward)
