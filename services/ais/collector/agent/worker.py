"""One episode after another: asked for, played by a program, ended."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from ais.collector.agent.settings import AgentSettings
from ais.collector.judging.harness.endpoint import OFFERS
from ais.collector.judging.harness.host import command_of, line_of, variables_of
from ais.collector.judging.harness.programs import Limits, run_program
from ais.collector.judging.harness.wire import Offered
from ais.collector.judging.judgement import Failure
from ais.runtime.process import UnavailableError
from ais.runtime.security.keyring import Credential
from ais.runtime.tasks import end_tasks

logger = logging.getLogger(__name__)

ASK_SECONDS = 30.0
"""How long one call waits for an episode."""
CALL_SECONDS = 20.0
"""How long any other call may take."""
PAUSES = (0.5, 1.0, 2.0, 5.0)
"""Seconds before a collector that cannot be reached is asked again; the last one from then on."""
SIGNS = 3
"""Signs of life within the time after which the agent would count as lost."""
PARTING_SECONDS = 2.0
"""Time to give an episode back when the agent is stopped."""


@dataclass(frozen=True)
class Worker:
    """Plays for one collector, any number of episodes at once."""

    settings: AgentSettings
    client: httpx.AsyncClient
    """Its base URL is where programs of this machine reach the collector."""
    credential: Credential

    async def play_on(self) -> None:
        """Plays until it is cancelled. Raises UnavailableError where the collector refuses this agent."""
        failures = 0
        while True:
            try:
                offered = await self._offered()
                failures = 0
            except httpx.HTTPError as error:
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                level = logging.WARNING if failures == len(PAUSES) else logging.INFO  # a collector may start later
                logger.log(level, "the collector gives no episode: %s", error or type(error).__name__)
                failures += 1
                await asyncio.sleep(pause)
                continue
            if offered is not None:
                await self._play(offered)

    async def _offered(self) -> Offered | None:
        answer = await self.client.post(
            OFFERS,
            json={"seconds": ASK_SECONDS},
            headers=self.credential.headers(),
            timeout=ASK_SECONDS + CALL_SECONDS,
        )
        if answer.status_code in (401, 403):
            raise UnavailableError(
                f"{self.settings.url} refuses this agent ({answer.status_code}): it needs the collector's agent.token, "
                "in security.tokens (docs/security.md)"
            )
        if answer.status_code == 204:
            return None
        answer.raise_for_status()
        try:
            return Offered.model_validate_json(answer.content)
        except ValidationError as error:
            raise UnavailableError(f"{self.settings.url} gives no episodes: {error.errors()[0]['msg']}") from None

    async def _play(self, offered: Offered) -> None:
        base = f"{str(self.client.base_url).rstrip('/')}{urlsplit(offered.base_url).path}"
        headers = {"authorization": f"Bearer {offered.key}"}
        variables, told = variables_of(base, offered.key), line_of(offered.prompt)
        command = command_of(self.settings.command)
        program = asyncio.create_task(run_program(command, self.settings.directory, variables, told, Limits()))
        over = asyncio.create_task(self._over(f"{base}/models", headers, offered.silent_seconds / SIGNS))
        try:
            await asyncio.wait((program, over), return_when=asyncio.FIRST_COMPLETED)
            if program.done():
                await self._end(f"{base}/end", headers, _ending(program.result()))
        except asyncio.CancelledError:
            await asyncio.shield(self._end(f"{base}/end", headers, {"again": True}, PARTING_SECONDS))
            raise
        finally:
            await end_tasks(program, over)

    async def _over(self, url: str, headers: dict[str, str], seconds: float) -> None:
        """Gives signs of life; returns when the episode is over."""
        while True:
            await asyncio.sleep(seconds)
            try:
                answer = await self.client.get(url, headers=headers)
            except httpx.HTTPError as error:  # the collector may be back before it counts
                logger.info("no sign of life was taken: %s", error or type(error).__name__)
                continue
            if answer.status_code in (400, 401):
                return

    async def _end(
        self, url: str, headers: dict[str, str], ending: dict[str, Any], seconds: float = CALL_SECONDS
    ) -> None:
        """An episode that its program has ended stays as that has it; one that cannot be ended will be missed."""
        try:
            await self.client.post(url, json=ending, headers=headers, timeout=seconds)
        except httpx.HTTPError as error:
            logger.warning("an episode could not be ended: %s", error or type(error).__name__)


def _ending(failure: Failure | None) -> dict[str, Any]:
    return {} if failure is None else {"failed": failure.reason[:500]}
