"""A conversation with a model: a replica of its own, and the terminal for the one who talks to it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from ais.launcher.directory.run_directory import RunDirectory
from ais.launcher.evaluation import serving_replica
from ais.launcher.processes.commands import module
from ais.launcher.processes.server import provide_redis
from ais.launcher.run import processes_of
from ais.launcher.settings import LauncherSettings
from ais.runtime.settings import RedisSettings


async def chat(directory: RunDirectory, redis: RedisSettings, launcher: LauncherSettings, tokens: Path) -> int:
    """Talks to the model that the settings file in `directory` names, and gives the exit code.

    Every process has ended when it returns, or is cancelled. Raises ProcessFailedError.
    """
    async with processes_of(directory, launcher, tokens) as processes:
        shared, _server = await provide_redis(processes, redis, directory.valkey)
        async with serving_replica(processes, directory.config, shared, directory.name, ()) as replica:
            arguments = ("-c", str(directory.config), "--replica", replica.grpc_address)
            talk = await asyncio.create_subprocess_exec(
                *module("ais.collector.chat", *arguments), env=processes.environment
            )
            try:
                return await talk.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    talk.send_signal(signal.SIGKILL)
                await talk.wait()
