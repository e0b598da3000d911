"""Starting real ranks on this machine, over gloo."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil

from ais.launcher.processes.commands import free_port


@asynccontextmanager
async def torchrun(
    ranks: int, *command: str, log: Path, max_restarts: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Ranks of one machine, as `ais` starts them, their output in `log`; what is left of them at the end is killed."""
    options = ("--nproc-per-node", str(ranks), "--max-restarts", str(max_restarts))
    async with _started("ais.trainer.ranks.torchrun", options, command, log) as process:
        yield process


@asynccontextmanager
async def torchrun_on_two_machines(
    *command: str, log: Path, max_restarts: int = 0
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.subprocess.Process]]:
    """Two torchruns with a rank each that know each other only by address, as they would on two machines."""
    options = ("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", str(max_restarts), "--rdzv-id", "test")
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1")
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                _started(
                    "torch.distributed.run", (*options, *meeting), command, log, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"
                )
            )
            for _ in range(2)
        ]
        yield first, second


@asynccontextmanager
async def _started(
    module: str, options: tuple[str, ...], command: tuple[str, ...], log: Path, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *options, *command),
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
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
