"""Agents that play the episodes of an evaluation, where the run starts them itself (launcher.agents)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from ais.launcher.processes.commands import Command
from ais.launcher.processes.processes import Exit, Processes, failure
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.tasks import end_tasks, until_first_end

RESTART_SECONDS = 1.0
"""After an agent has died."""


async def with_agents(processes: Processes, agents: Sequence[Command], work: Coroutine[Any, Any, None]) -> None:
    """Does `work` while agents play; what dies of them is started again.

    Raises what `work` raises, and ProcessFailedError for an agent that cannot play at all.
    """
    playing = [asyncio.create_task(_kept(processes, agent)) for agent in agents]
    try:
        await until_first_end(work, *playing)
    finally:
        await end_tasks(*playing)


async def _kept(processes: Processes, agent: Command) -> None:
    while True:
        code = await processes.run(agent)
        if code in (EXIT_SETTINGS, EXIT_UNAVAILABLE):
            log, tail = processes.log_path(agent.name), processes.log_tail(agent.name)
            raise failure(Exit(agent.name, code), "it plays the episodes of the evaluation", log, tail)
        await asyncio.sleep(RESTART_SECONDS)
