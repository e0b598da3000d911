"""Starting real ranks on this machine, over gloo."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil


@asynccontextmanager
async def torchrun(
    ranks: int, *command: str, log: Path, max_restarts: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`torchrun COMMAND` with its output in `log`; whatever is left of it is killed at the end of the block."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)),
            *("--max-restarts", str(max_restarts), *command),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            await process.wait()


def rank_processes(process: asyncio.subprocess.Process) -> list[psutil.Process]:
    """The ranks' processes, by rank."""
    children = psutil.Process(process.pid).children()
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))
