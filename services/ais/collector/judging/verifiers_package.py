"""Has environments of the package `verifiers` played, all episodes of a source in one process that has the package.

Importing that package takes seconds of a processor, which is too much for each episode.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ais.collector.judging.harness.host import Harness
from ais.collector.judging.harness.wire import Session
from ais.collector.judging.judgement import Failure, Outcome
from ais.collector.judging.process import ended
from ais.collector.judging.replies import WorkerDiedError, reply_in
from ais.collector.prompts.prompts import Prompt
from ais.collector.settings.environments import EnvironmentSettings
from ais.collector.tasks.verifiers_package.command import command_of, first_line, variables
from ais.collector.tasks.verifiers_package.tasks import TASK
from ais.runtime.text import printable

START_SECONDS = 600.0
"""A process that cannot play by then, libraries imported, has failed."""
CANCEL_SECONDS = 10.0
"""A process that has not let go of an episode by then is ended, with all other episodes that it plays."""
LONGEST_REASON = 500
"""Characters of why an episode failed."""


class PlayerProcess:
    """One process that plays. It is over when its output ends."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: dict[int, asyncio.Future[str | None]] = {}
        self._numbers = count()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def started(cls, settings: EnvironmentSettings) -> PlayerProcess:
        """Raises WorkerDiedError where it cannot be started or ends before it plays."""
        keeper = (sys.executable, "-P", "-m", "ais.collector.judging.keeper", "0")  # 0: any memory
        try:
            process = await asyncio.create_subprocess_exec(
                *(*keeper, *command_of(settings, "play")),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=dict(variables()),
            )
        except OSError as error:
            raise WorkerDiedError(f"the process cannot be started: {error}") from None
        player = cls(process)
        try:
            player.write(first_line(settings))
            async with asyncio.timeout(START_SECONDS):
                await player._ready
        except TimeoutError:
            await player.end()
            raise WorkerDiedError(f"the process plays nothing within {START_SECONDS:g} s") from None
        except BaseException:
            await player.end()
            raise
        return player

    @property
    def over(self) -> bool:
        """Whether it plays nothing any more."""
        return self._reading.done()

    async def play(self, episode: Mapping[str, Any], seconds: float | None) -> Failure | None:
        """Why an episode failed, or None. Where this is cancelled, or takes longer, the process lets go of it."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self.write(json.dumps({"episode": number, **episode}).encode() + b"\n")
            async with asyncio.timeout(seconds):
                why = await asyncio.shield(answer)
        except TimeoutError:
            return Failure(Outcome.OVERTIME, f"the episode took longer than environment.seconds = {seconds:g} s")
        except WorkerDiedError as error:
            return Failure(Outcome.DIED, str(error))
        finally:
            if not answer.done():
                await asyncio.shield(self._let_go(number, answer))
            self._waiting.pop(number, None)
        return None if why is None else Failure(Outcome.ERROR, printable(why, LONGEST_REASON))

    def write(self, line: bytes) -> None:
        """What it reads next. A process that has ended says so by the end of its output."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(line)

    async def end(self) -> None:
        """Ends it with all that it started."""
        await ended(self._process)
        await asyncio.wait([self._reading])

    async def _let_go(self, number: int, answer: asyncio.Future[str | None]) -> None:
        self.write(json.dumps({"cancel": number}).encode() + b"\n")
        await asyncio.wait([answer], timeout=CANCEL_SECONDS)
        if not answer.done():
            await self.end()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        why = "the process that plays environments has ended"
        try:
            while line := await self._process.stdout.readline():
                self._hear(reply_in(line))
        except (ConnectionError, ValueError, WorkerDiedError) as error:  # ValueError: a reply without an end
            why = f"the process that plays environments is not understood: {error}"
            await ended(self._process)
        waiting: tuple[asyncio.Future[Any], ...] = (self._ready, *self._waiting.values())
        for answer in waiting:
            if not answer.done():
                answer.set_exception(WorkerDiedError(why))
                answer.exception()  # whoever waits is told; nobody has to wait

    def _hear(self, reply: Mapping[str, Any]) -> None:
        if reply.get("ready") and not self._ready.done():
            self._ready.set_result(None)
        number = reply.get("episode")
        answer = self._waiting.get(number) if isinstance(number, int) else None
        if answer is not None and not answer.done():
            failed = reply.get("failed")
            answer.set_result(None if failed is None else str(failed))


@dataclass
class _Place:
    """The process of one source, when there is one."""

    player: PlayerProcess | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True)
class VerifiersHarness(Harness):
    """Has the environment of one source played. What it was worth comes with the call that ends the episode."""

    _place: _Place = field(default_factory=_Place, repr=False)

    async def played(self, session: Session, base_url: str, key: str, prompt: Prompt) -> Failure | None:  # noqa: ARG002
        try:
            async with self._place.starting:
                if self._place.player is None or self._place.player.over:
                    self._place.player = await PlayerProcess.started(self.settings)
                player = self._place.player
        except WorkerDiedError as error:
            return Failure(Outcome.DIED, str(error))
        episode = {"task": prompt.metadata[TASK], "base_url": base_url, "key": key}
        return await player.play(episode, self.settings.seconds)

    async def end(self) -> None:
        if self._place.player is not None:
            await self._place.player.end()
