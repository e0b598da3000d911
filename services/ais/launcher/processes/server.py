"""The run's own Valkey server, for runs without `redis.url`."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path

from ais.launcher.processes.commands import LOOPBACK, Command, free_port, valkey
from ais.launcher.processes.processes import Processes
from ais.runtime.files import FOR_OWNER, replace_file
from ais.runtime.network.redis import RedisUnreachableError, connect
from ais.runtime.network.redis_url import RedisUrl
from ais.runtime.process import UnavailableError
from ais.runtime.settings import RedisSettings
from ais.runtime.tasks import end_tasks

ATTEMPTS = 3
"""Ports tried: another program may take a free port before the server binds it."""
CONFIG = "valkey.conf"
ANSWER_SECONDS = 10.0
"""A started server answers within this time."""


@dataclass(frozen=True)
class Server:
    """A server of ours that runs."""

    url: RedisUrl
    command: Command
    """Starts it again on the same port, with the same data."""


async def provide_redis(
    processes: Processes, redis: RedisSettings, directory: Path
) -> tuple[RedisSettings, Command | None]:
    """The server that the settings name and None, or a Valkey server of our own and the command to start it again."""
    if redis.url:
        return redis, None
    server = await start_server(processes, directory)
    return redis.model_copy(update={"url": server.url}), server.command


async def start_server(processes: Processes, directory: Path) -> Server:
    """Starts Valkey with its data in `directory` and a random password.

    The password is handed over in a file: other users of the machine can read command lines. Raises UnavailableError
    with the end of its log.
    """
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    password, config = secrets.token_urlsafe(), directory / CONFIG
    replace_file(config, f"requirepass {password}\n", FOR_OWNER)
    for _attempt in range(ATTEMPTS):
        port = free_port()
        server = Server(RedisUrl(f"redis://:{password}@{LOOPBACK}:{port}/0"), valkey(directory, port, config))
        await processes.start(server.command)
        if await _answers(server.url, processes):
            return server
        await processes.stop([server.command.name])
    raise UnavailableError(f"the Valkey server does not start:\n{processes.log_tail('valkey')}")


async def _answers(url: RedisUrl, processes: Processes) -> bool:
    connecting = asyncio.create_task(connect(RedisSettings(url=url, connect_timeout_seconds=ANSWER_SECONDS)))
    ended = asyncio.create_task(processes.exits.get())
    try:
        await asyncio.wait((connecting, ended), return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done() or ended.done():
            return False
        await (await connecting).aclose()
        return True
    except RedisUnreachableError:
        return False
    finally:
        await end_tasks(connecting, ended)
