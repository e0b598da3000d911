"""The processes of a run: starts them, logs their output, waits for them, and ends them all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from ais.launcher.directory.logs import last_error
from ais.launcher.processes.commands import Command
from ais.runtime.exits import EXIT_FAILED, EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.reading import ENVIRONMENT_PREFIX, ENVIRONMENT_SEPARATOR
from ais.runtime.text import escaped

TAIL_BYTES = 1 << 16
"""Read of the end of a log."""

_GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True)
class Exit:
    """A process has ended by itself."""

    name: str
    code: int
    """Exit code; minus the signal's number if a signal ended it."""

    def __str__(self) -> str:
        if self.code < 0:
            return f"{self.name} was ended by {signal.Signals(-self.code).name}"
        return f"{self.name} ended with exit code {self.code}"


class ProcessFailedError(RuntimeError):
    """A process that the run cannot do without has failed. The message ends with the tail of its log."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """What `ais` exits with: the process's own code where that says what is wrong."""


def failure(ended: Exit, why: str, log: Path, tail: str) -> ProcessFailedError:
    """The error for a process that has ended, with the last error that it logged and the end of its log."""
    reason = last_error(tail)
    said = f"{ended}: {reason}" if reason else str(ended)
    permanent = ended.code in (EXIT_SETTINGS, EXIT_UNAVAILABLE)
    return ProcessFailedError(f"{said}\n{why}. The end of {log}:\n{tail}", ended.code if permanent else EXIT_FAILED)


class Processes:
    """Child processes of the launcher. The `async with` block ends them when it is left.

    Each child leads a session of its own: the terminal's Ctrl-C then reaches the launcher alone, and a child can be
    ended together with everything it has started. Each has one log file.
    """

    def __init__(
        self,
        logs: Path,
        grace_seconds: float,
        inherited: Sequence[int] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`inherited`: file descriptors that the processes keep open as long as they live; `environment`: settings for
        all of them."""
        self._inherited = tuple(inherited)
        self._logs = logs
        self._grace_seconds = grace_seconds
        self.environment = {**service_environment(), **environment}
        """What every process gets."""
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopping: set[str] = set()
        self.exits: asyncio.Queue[Exit] = asyncio.Queue()
        """Processes that ended without being asked to, in the order of their ends."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()

    async def start(self, command: Command) -> None:
        """Starts a process; its output is appended to its log."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log_path(command.name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *guarded(command.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, **command.environment},
                start_new_session=True,
                pass_fds=self._inherited,
            )
        self._running[command.name] = process
        self._stopping.discard(command.name)
        watcher = asyncio.create_task(self._watch(command.name, process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def run(self, command: Command) -> int:
        """Starts a process, waits for its end, and gives its exit code. Ends the process when cancelled."""
        await self.start(command)
        self._stopping.add(command.name)  # its end belongs to this call, and not into `exits`
        try:
            return await self._running[command.name].wait()
        finally:
            await self.stop([command.name])

    async def stop(
        self, names: Iterable[str] | None = None, grace_seconds: float | None = None
    ) -> dict[str, int | None]:
        """Ends the named processes, or all: with SIGTERM, and with SIGKILL those still alive after the grace period,
        which may be another than usual. Gives the exit codes of those that ran."""
        chosen = list(self._running) if names is None else list(names)
        stopping = {name: self._running[name] for name in chosen if name in self._running}
        self._stopping |= stopping.keys()
        for process in stopping.values():
            _signal(process, signal.SIGTERM)
        waits = [asyncio.create_task(process.wait()) for process in stopping.values()]
        try:
            if waits:
                await asyncio.wait(waits, timeout=self._grace_seconds if grace_seconds is None else grace_seconds)
        finally:
            for process in stopping.values():
                _signal(process, signal.SIGKILL)
            await asyncio.gather(*waits)
            for name in stopping:
                self._running.pop(name, None)
        return {name: process.returncode for name, process in stopping.items()}

    @property
    def running(self) -> list[str]:
        """Names of the processes that run now, sorted."""
        return sorted(name for name, process in self._running.items() if process.returncode is None)

    def pid(self, name: str) -> int | None:
        """Process id of one that runs; None where it does not."""
        process = self._running.get(name)
        return process.pid if process is not None and process.returncode is None else None

    def kill(self, name: str) -> None:
        """Kills this one process with SIGKILL, as a crash or the kernel would. Its end comes out of `exits`."""
        self._running[name].kill()

    def log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def log_tail(self, name: str, lines: int = 20) -> str:
        """The last lines of a process's log."""
        try:
            with self.log_path(name).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = log.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return escaped("\n".join(text.splitlines()[-lines:]), keep="\n")

    async def _watch(self, name: str, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        _signal(process, signal.SIGKILL)  # whatever it started itself
        if name not in self._stopping:
            self._running.pop(name, None)
            self.exits.put_nowait(Exit(name, code))


def guarded(arguments: Sequence[str]) -> tuple[str, ...]:
    """A command line that runs `arguments` and ends, by SIGTERM, when this process does, even by SIGKILL."""
    return (sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), *arguments)


def service_environment() -> dict[str, str]:
    """The environment of a service: ours without the settings in it, because the run's file has them all.

    It asks libraries for one compute thread; a service whose settings say more asks for them itself.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith(ENVIRONMENT_PREFIX) and ENVIRONMENT_SEPARATOR in name)
    }
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment |= {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "TOKENIZERS_PARALLELISM": "false"}
    return environment


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Sends a signal to the process and to everything it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
