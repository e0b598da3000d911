"""One program of the user's, run with a limit of time; whatever it started is ended with it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ais.collector.judging.judgement import Failure, Outcome
from ais.collector.judging.process import ended
from ais.runtime.text import printable

LAST_WORDS = 4096
"""Bytes of a program's output of which a failure shows the last line."""


async def run_program(
    command: Sequence[str], directory: Path | None, variables: Mapping[str, str], told: bytes, seconds: float | None
) -> Failure | None:
    """Runs it with `told` on its standard input; why it failed, or None.

    Its environment is this process's, less what is meant for services of a run (`AIS_...`, `OTEL_...`), and
    `variables`. However this ends, the program is ended with all that it started.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIS_", "OTEL_"))}
    keeper = (sys.executable, "-P", "-m", "ais.collector.judging.keeper")  # -P: nothing is imported from `directory`
    try:
        process = await asyncio.create_subprocess_exec(
            *(*keeper, *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=directory,
            env={**inherited, **variables},
        )
    except OSError as error:  # no process, memory or file is to be had, or the directory has gone
        return Failure(Outcome.DIED, f"the program cannot be started: {error}")
    try:
        async with asyncio.timeout(seconds):
            said = await _last_words(process, told)
            code = await process.wait()
    except TimeoutError:
        return Failure(Outcome.OVERTIME, f"the program took longer than environment.seconds = {seconds:g} s")
    finally:
        await asyncio.shield(ended(process))
    if code == 0:
        return None
    line = printable(said.decode(errors="replace").strip().rpartition("\n")[2], 200)
    return Failure(Outcome.DIED, f"the program ended with exit code {code}: {line}")


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
