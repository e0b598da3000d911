"""One program of the user's, run with limits of time and memory; whatever it started is ended with it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ais.collector.judging.judgement import Failure, Outcome
from ais.collector.judging.process import ended
from ais.runtime.inherited import inherited
from ais.runtime.tasks import end_tasks
from ais.runtime.text import printable

LAST_WORDS = 4096
"""Bytes of a program's output of which a failure shows the last line."""

_MEMORY = re.compile(r"MemoryError|bad_alloc|out of memory|cannot allocate memory|failed to allocate", re.IGNORECASE)
"""How programs say that they got no memory."""


@dataclass(frozen=True)
class Limits:
    """What a program may take."""

    seconds: float | None = None
    megabytes: int = 0
    """Each of its processes may have so much; 0: any."""


async def run_program(
    command: Sequence[str], directory: Path | None, variables: Mapping[str, str], told: bytes, limits: Limits
) -> Failure | None:
    """Runs it with `told` on its standard input; why it failed, or None.

    Its environment is this process's, less what is meant for services of a run (`AIS_...`, `OTEL_...`), and
    `variables`. However this ends, the program is ended with all that it started.
    """
    # -P: nothing is imported from `directory`
    keeper = (sys.executable, "-P", "-m", "ais.collector.judging.keeper", str(limits.megabytes))
    seconds = limits.seconds
    try:
        process = await asyncio.create_subprocess_exec(
            *(*keeper, *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=directory,
            env={**inherited(), **variables},
        )
    except OSError as error:  # no process, memory or file is to be had, or the directory has gone
        return Failure(Outcome.DIED, f"the program cannot be started: {error}")
    saying = asyncio.create_task(_last_words(process, told))
    try:
        async with asyncio.timeout(seconds):
            said = await asyncio.shield(saying)
            code = await process.wait()
    except TimeoutError:
        return Failure(Outcome.OVERTIME, f"the program took longer than environment.seconds = {seconds:g} s")
    finally:
        await asyncio.shield(_put_down(process, saying))
    if code == 0:
        return None
    return _failure(code, said.decode(errors="replace").strip(), limits)


def _failure(code: int, said: str, limits: Limits) -> Failure:
    """What became of a program with that exit code. That memory was lacking is known from what it said alone."""
    line = printable(said.rpartition("\n")[2], 200)
    reason = f"the program ended with exit code {code}: {line}"
    if not limits.megabytes:
        return Failure(Outcome.DIED, reason)
    bound = f"environment.program_megabytes = {limits.megabytes}"
    if _MEMORY.search(said):
        return Failure(Outcome.MEMORY, f"{reason} (a process of it may have no more memory: {bound})")
    return Failure(Outcome.DIED, f"{reason} (under {bound})")


async def _put_down(process: asyncio.subprocess.Process, saying: asyncio.Task[bytes]) -> None:
    """Ends the program while what it says is read on: a process whose output nobody reads is not told to have ended."""
    try:
        await ended(process)
    finally:
        await end_tasks(saying)


async def _last_words(process: asyncio.subprocess.Process, told: bytes) -> bytes:
    """The end of what it says, when it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(told)  # it need not read: nobody waits for that
    process.stdin.close()
    said = b""
    while piece := await process.stdout.read(LAST_WORDS):
        said = (said + piece)[-LAST_WORDS:]
    return said
