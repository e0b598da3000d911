"""A replica as a real process, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ais.contracts.registry import ReplicaRecord, ReplicaRegistry
from tests.support.access import tokens


@asynccontextmanager
async def process(*overrides: str, log: Path | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m ais.rollout` with these settings; killed at the end if it still runs.

    What it says goes to the process's `stderr`, or to the file `log`: a pipe that nobody reads fills up.
    """
    arguments = [part for override in overrides for part in ("--set", override)]
    with contextlib.ExitStack() as stack:
        stderr = asyncio.subprocess.PIPE if log is None else stack.enter_context(log.open("wb"))
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ais.rollout", *arguments), stderr=stderr, env=os.environ
        )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


async def registered(registry: ReplicaRegistry, version: int = 0) -> ReplicaRecord:
    """The record of the only replica, once it serves `version`."""
    async with asyncio.timeout(240):
        while True:
            for record in await registry.replicas():
                if record.ready and record.policy_version == version:
                    return record
            await asyncio.sleep(0.02)


def overrides(model: Path, redis_url: str, run_name: str, *more: str) -> tuple[str, ...]:
    return (
        f"run.model={model}",
        f"redis.url={redis_url}",
        f"run.name={run_name}",
        f"security.tokens={tokens()}",
        *more,
    )
