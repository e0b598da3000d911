"""An agent's process: asks for episodes, as many at once as it may play, until it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from ais.collector.agent.settings import AgentProcessSettings, AgentSettings
from ais.collector.agent.tunnel import tunnel
from ais.collector.agent.worker import CALL_SECONDS, Worker
from ais.collector.judging.harness.host import check_command
from ais.collector.judging.harness.outside import SERVICE
from ais.collector.prompts.prompts import TaskError
from ais.runtime.process import UnavailableError
from ais.runtime.security.keyring import Credential, open_keyring
from ais.runtime.security.roles import Role
from ais.runtime.settings import SettingsError
from ais.runtime.tasks import end_tasks

logger = logging.getLogger(__name__)


async def play_episodes(settings: AgentProcessSettings, stop: asyncio.Event) -> None:
    """Runs until `stop` is set; episodes under way are then given back.

    Raises SettingsError for settings that cannot be used, UnavailableError for a command that is not there, and where
    the collector refuses this agent.
    """
    agent = settings.agent
    _check(agent)
    credential = open_keyring(settings.security, settings.run).credential(Role.AGENT)
    async with _way(agent.url, credential) as address, _client(address, settings.run.use_proxy) as client:
        worker = Worker(agent, client, credential)
        stopping = asyncio.create_task(stop.wait())
        playing = [asyncio.create_task(worker.play_on()) for _ in range(agent.programs)]
        logger.info("plays episodes of %s, %d at once", agent.url, agent.programs)
        try:
            done, _ = await asyncio.wait((stopping, *playing), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end_tasks(stopping, *playing)


def _check(agent: AgentSettings) -> None:
    if not agent.url or not agent.command:
        raise SettingsError("agent.url and agent.command are needed: where episodes come from, and what plays them")
    try:
        check_command(agent.command, agent.directory, "agent")
    except TaskError as error:
        raise UnavailableError(str(error)) from None


@asynccontextmanager
async def _way(url: str, credential: Credential) -> AsyncIterator[str]:
    """The address at which programs of this machine reach the collector. Raises SettingsError."""
    parts, certificates = urlsplit(url), credential.certificates
    if (parts.scheme == "https") != (certificates is not None):
        raise SettingsError(f"agent.url = {url!r}: https:// and security.certificates go together")
    if certificates is None:
        yield url
        return
    assert parts.hostname is not None
    async with tunnel(parts.hostname, parts.port or 443, certificates.client(SERVICE), SERVICE) as address:
        yield address


def _client(address: str, use_proxy: bool) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
    return httpx.AsyncClient(base_url=address, timeout=CALL_SECONDS, limits=limits, trust_env=use_proxy)
