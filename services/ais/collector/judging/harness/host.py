"""Has programs play episodes."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ais.collector.judging.harness.endpoint import HOST, Endpoint
from ais.collector.judging.harness.programs import Limits, run_program
from ais.collector.judging.harness.wire import Session
from ais.collector.judging.judgement import Failure, Observe, Outcome
from ais.collector.prompts.prompts import Prompt, TaskError
from ais.collector.settings.environments import EPISODE, EnvironmentSettings
from ais.runtime.inherited import without_proxy
from ais.runtime.tasks import end_tasks

LINGER_SECONDS = 3.0
"""Time that a program has for itself after it has ended its episode."""


@dataclass
class Record:
    """What is known of the programs of one source."""

    worked: int = 0
    """Those that had a turn of the policy."""


@dataclass(frozen=True)
class Harness:
    """Runs the program of one source of prompts."""

    settings: EnvironmentSettings
    endpoint: Endpoint
    address: str
    on_failure: str
    observe: Observe
    free: asyncio.Semaphore = field(repr=False)
    """Held while a program runs."""
    record: Record = field(default_factory=Record)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Harness]:
        """Waits until one more episode may be played, and gives who plays it while the context is open."""
        async with self.free:
            yield self

    async def run(self, session: Session, prompt: Prompt) -> Failure | None:
        """Has a program play an episode whose calls `session` answers; why it came to nothing, or None."""
        began = time.monotonic()
        with self.endpoint.episode(session) as (path, key):
            program = self.played(session, f"{self.address}{path}", key, prompt)
            failure = await _until_it_lingers(program, session.ended)
        if session.reward is not None:
            failure = None  # what a program does after the end is its own affair
        elif session.failure is not None:
            failure = session.failure
        elif failure is None and self.settings.judges:
            failure = Failure(Outcome.NO_REWARD, "the program ended the episode without a reward")
        self.observe(EPISODE, Outcome.JUDGED if failure is None else failure.outcome, time.monotonic() - began)
        return failure

    async def end(self) -> None:
        """No episode is played any more: what outlives them is ended."""

    async def played(self, session: Session, base_url: str, key: str, prompt: Prompt) -> Failure | None:  # noqa: ARG002
        """Has an episode played by what calls the policy at `base_url`; why that failed, or None."""
        variables, limits = variables_of(base_url, key), Limits(self.settings.seconds, self.settings.program_megabytes)
        command, told = command_of(self.settings.command), line_of(told_to_programs(prompt))
        return await run_program(command, self.settings.directory, variables, told, limits)


async def _until_it_lingers(program: Coroutine[Any, Any, Failure | None], over: asyncio.Event) -> Failure | None:
    """What became of the program, which is ended when the episode has been over for `LINGER_SECONDS`."""
    running, waiting = asyncio.create_task(program), asyncio.create_task(over.wait())
    try:
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((running,), timeout=LINGER_SECONDS)
        return running.result() if running.done() else None
    finally:
        await end_tasks(running, waiting)


def command_of(command: Sequence[str]) -> tuple[str, ...]:
    """The command as it is started."""
    program, *arguments = command
    return (sys.executable if program == "python" else program, *arguments)


def check_command(command: Sequence[str], directory: Path | None, section: str = "environment") -> None:
    """Raises TaskError for a program or a directory of the settings' section that is not there."""
    if directory is not None and not directory.is_dir():
        raise TaskError(f"{section}.directory: there is no directory {str(directory)!r}")
    program = command_of(command)[0]
    if "/" in program and directory is not None:
        program = str(directory / program)
    if shutil.which(program) is None:
        raise TaskError(f"{section}.command: there is no program {program!r} that can be started")


def told_to_programs(prompt: Prompt) -> dict[str, Any]:
    """What a program reads of its episode. JSON holds it."""
    told = {
        "prompt_id": prompt.prompt_id,
        "text": prompt.text,
        "messages": [dict(message) for message in prompt.messages],
        "answer": prompt.answer,
        "metadata": dict(prompt.metadata),
        "source": prompt.source,
    }
    plain: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return plain


def line_of(told: Mapping[str, Any]) -> bytes:
    """The same on its standard input."""
    return json.dumps(told).encode() + b"\n"


def variables_of(base_url: str, key: str) -> dict[str, str]:
    """What OpenAI's clients look at. The endpoint is on this machine, and no proxy's affair."""
    return {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": key, **without_proxy(HOST)}
