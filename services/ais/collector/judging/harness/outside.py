"""Has episodes played by agents elsewhere, which ask for them over the network."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from ais.collector.judging.harness.desk import Agent, Desk
from ais.collector.judging.harness.endpoint import Endpoint, application
from ais.collector.judging.harness.host import Harness, told_to_programs
from ais.collector.judging.harness.wire import Offered, Session
from ais.collector.judging.judgement import Failure, Outcome
from ais.collector.prompts.prompts import Prompt
from ais.runtime.network.addresses import http_url
from ais.runtime.network.http import serve
from ais.runtime.process import UnavailableError
from ais.runtime.security.door import Door
from ais.runtime.security.roles import may_play

logger = logging.getLogger(__name__)

SERVICE = "collector"
"""What its certificate says, and agents ask for."""
LEAST_WAIT = 0.01
"""Seconds between two looks at an agent that is being answered."""
TURN_SECONDS = 0.5
"""Between two looks whether the port is free."""


@dataclass(frozen=True)
class OutsideHarness(Harness):
    """Gives the episodes of one source to agents, each to the one that has waited longest."""

    desk: Desk = field(default_factory=Desk, repr=False)
    agent: Agent | None = None
    """Who plays; None: nobody yet."""

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Harness]:
        async with self.free:
            yield replace(self, agent=await self.desk.agent())

    async def played(self, session: Session, base_url: str, key: str, prompt: Prompt) -> Failure | None:
        """None when the agent has ended the episode."""
        assert self.agent is not None, "an episode is played at a place"
        silent = self.settings.silent_seconds
        offered = Offered(base_url=base_url, key=key, silent_seconds=silent, prompt=told_to_programs(prompt))
        if not self.agent.take(offered):
            return Failure(Outcome.LOST, "the agent had left before it got its episode")
        session.heard = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.seconds):
                return await _ended_or_silent(session, silent)
        except TimeoutError:
            seconds = self.settings.seconds
            return Failure(Outcome.OVERTIME, f"the episode took longer than environment.seconds = {seconds:g} s")


async def _ended_or_silent(session: Session, seconds: float) -> Failure | None:
    """None when the episode was ended; a failure when nothing has been heard for so many seconds."""
    while True:
        left = seconds - (time.monotonic() - session.heard)
        if left <= 0 and not session.is_asking:
            return Failure(Outcome.LOST, f"nothing was heard of the agent for environment.silent_seconds = {seconds:g}")
        with suppress(TimeoutError):
            async with asyncio.timeout(max(left, LEAST_WAIT)):
                await session.ended.wait()
                return None


@dataclass(frozen=True)
class Entrance:
    """Where agents come in, and how."""

    door: Door
    waits: bool = False
    """Whether to wait while the port is taken: the evaluations after a run take turns at it."""


@asynccontextmanager
async def open_outside(host: str, port: int, entrance: Entrance, endpoint: Endpoint, desk: Desk) -> AsyncIterator[str]:
    """Listens to agents while the context is open, and gives the address.

    Raises SettingsError for another service's certificate, UnavailableError for a port that is taken.
    """
    certificates = entrance.door.certificates
    if certificates is not None:
        certificates.check_says(SERVICE)
    app = application(endpoint, desk)
    async with AsyncExitStack() as stack:
        while True:
            try:
                listening = serve(app, host, port, entrance.door, "episodes", may_play)
                bound = await stack.enter_async_context(listening)
                break
            except UnavailableError as error:
                if not entrance.waits:
                    raise
                logger.info("waits for its turn: %s", error)
                await asyncio.sleep(TURN_SECONDS)
        stack.callback(desk.close)  # else the server would wait for those who wait
        yield http_url(host, bound, tls=certificates is not None)
