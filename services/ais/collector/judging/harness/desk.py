"""Where agents elsewhere wait for episodes, and episodes for agents: whoever has waited longest is served first."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from ais.collector.judging.harness.wire import Offered

logger = logging.getLogger(__name__)

MISSED_SECONDS = 30.0
"""The log says so when an episode has waited for so long and no agent asks."""


@dataclass(frozen=True)
class Agent:
    """One that has asked for an episode."""

    _asked: asyncio.Future[Offered]

    def take(self, offered: Offered) -> bool:
        """Whether it gets the episode; False: it waits no longer."""
        if self._asked.done():
            return False
        self._asked.set_result(offered)
        return True


class Desk:
    """Brings both together."""

    def __init__(self) -> None:
        self._agents: deque[asyncio.Future[Offered]] = deque()
        self._come = asyncio.Condition()

    def __len__(self) -> int:
        """Agents that wait."""
        return len(self._agents)

    async def episode(self, seconds: float) -> Offered | None:
        """An episode for an agent; None where there is none within `seconds`."""
        asked: asyncio.Future[Offered] = asyncio.get_running_loop().create_future()
        self._agents.append(asked)
        try:
            async with self._come:
                self._come.notify()
            await asyncio.wait((asked,), timeout=seconds)
            return asked.result() if asked.done() and not asked.cancelled() else None
        finally:
            asked.cancel()
            if asked in self._agents:
                self._agents.remove(asked)

    def close(self) -> None:
        """Sends away the agents that wait."""
        for asked in self._agents:
            asked.cancel()

    async def agent(self) -> Agent:
        """The agent that has waited longest, as soon as there is one."""
        while True:
            try:
                async with asyncio.timeout(MISSED_SECONDS), self._come:
                    await self._come.wait_for(lambda: self._agents)
                    return Agent(self._agents.popleft())
            except TimeoutError:
                logger.warning("an episode waits for an agent, and none asks for one (docs/environments.md)")
