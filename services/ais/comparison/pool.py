"""Worker processes that train cells side by side, one core each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ais.comparison.grid import Cell
from ais.comparison.records import Record
from ais.launcher.processes.commands import module
from ais.launcher.processes.processes import guarded, service_environment

TAIL_BYTES = 2000
"""Shown of the log of a worker that has ended."""
MOST_LINE_BYTES = 1 << 28
"""Longest line that a worker may write: a record of a million steps."""


class Watch(Protocol):
    """Told of what goes on."""

    def began(self, worker: int, cell: Cell) -> None: ...

    def stepped(self, worker: int, step: int, reward: float) -> None: ...

    def done(self, worker: int, record: Record) -> None: ...

    def failed(self, worker: int, cell: Cell, reason: str) -> None: ...


class CellFailedError(RuntimeError):
    """A cell could not be trained. The message says why."""


async def train_cells(
    cells: Sequence[tuple[int, Cell]],
    config: Path,
    logs: Path,
    workers: int,
    watch: Watch,
    keep: Callable[[Record], None],
) -> int:
    """Trains the cells, given with their numbers in the grid of `config`; `keep` is called with each record.

    `logs` is there already. A cell that fails is told to `watch`, and the others go on. Gives how many have failed when
    all are done; every worker has ended then, also when it is cancelled.
    """
    waiting = deque(cells)
    failed: list[Cell] = []

    async def work(number: int) -> None:
        worker = _Worker(config, logs / f"worker-{number}.log")
        try:
            while waiting:
                index, cell = waiting.popleft()
                watch.began(number, cell)
                try:
                    record = await worker.train(index, lambda step, reward: watch.stepped(number, step, reward))
                except CellFailedError as error:
                    failed.append(cell)
                    watch.failed(number, cell, str(error))
                else:
                    keep(record)
                    watch.done(number, record)
        finally:
            await worker.end()

    async with asyncio.TaskGroup() as group:
        for number in range(min(workers, len(cells))):
            group.create_task(work(number))
    return len(failed)


class _Worker:
    """One process, begun when there is a cell for it, and again when it has died."""

    def __init__(self, config: Path, log: Path) -> None:
        self._config = config
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def train(self, index: int, progress: Callable[[int, float], None]) -> Record:
        """Raises CellFailedError."""
        process = self._process if self._process and self._process.returncode is None else await self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{index}\n".encode())
        while line := await process.stdout.readline():
            message = json.loads(line)
            if "record" in message:
                return Record.parse(message["record"])
            if "error" in message:
                raise CellFailedError(message["error"])
            progress(message["step"], message["reward"])
        code = await process.wait()
        tail = self._log.read_bytes()[-TAIL_BYTES:].decode("utf-8", errors="replace").strip()
        raise CellFailedError(f"its worker ended with {code}. The end of {self._log}:\n{tail}")

    async def end(self) -> None:
        """Kills the process: what it has trained of a cell is worth nothing."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _begin(self) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *guarded(module("ais.comparison.cell.worker", str(self._config))),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=service_environment(),
                start_new_session=True,
                limit=MOST_LINE_BYTES,
            )
        return self._process
