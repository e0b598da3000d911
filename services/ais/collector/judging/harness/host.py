"""Has programs play episodes."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
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

    async def run(self, session: Session, prompt: Prompt) -> Failure | None:
        """Has a program play an episode whose calls `session` answers; why it came to nothing, or None."""
        began = time.monotonic()
        with self.endpoint.episode(session) as (path, key):
            program = self.played(f"{self.address}{path}", key, prompt)
            failure = await _until_it_lingers(program, session.ended)
        if session.reward is not None:
            failure = None  # what a program does after the end is its own affair
        elif failure is None and self.settings.judges:
            failure = Failure(Outcome.NO_REWARD, "the program ended the episode without a reward")
        self.observe(EPISODE, Outcome.JUDGED if failure is None else failure.outcome, time.monotonic() - began)
        return failure

    async def end(self) -> None:
        """No episode is played any more: what outlives them is ended."""

    async def played(self, base_url: str, key: str, prompt: Prompt) -> Failure | None:
        """Has an episode played by what calls the policy at `base_url`; why that failed, or None."""
        variables, limits = _variables(base_url, key), Limits(self.settings.seconds, self.settings.program_megabytes)
        return await run_program(command_of(self.settings), self.settings.directory, variables, _told(prompt), limits)


async def _until_it_lingers(program: Coroutine[Any, Any, Failure | None], over: asyncio.Event) -> Failure | None:
    """What became of the program, which is ended when the episode has been over for `LINGER_SECONDS`."""
    running, waiting = asyncio.create_task(program), asyncio.create_task(over.wait())
    try:
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((running,), timeout=LINGER_SECONDS)
        return running.result() if running.done() else None
    finally:
        await end_tasks(running, waiting)


def command_of(settings: EnvironmentSettings) -> tuple[str, ...]:
    """The command as it is started."""
    program, *arguments = settings.command
    return (sys.executable if program == "python" else program, *arguments)


def check_command(settings: EnvironmentSettings) -> None:
    """Raises TaskError for a program or a directory that is not there."""
    if settings.directory is not None and not settings.directory.is_dir():
        raise TaskError(f"environment.directory: there is no directory {str(settings.directory)!r}")
    program = command_of(settings)[0]
    if "/" in program and settings.directory is not None:
        program = str(settings.directory / program)
    if shutil.which(program) is None:
        raise TaskError(f"environment.command: there is no program {program!r} that can be started")


def _told(prompt: Prompt) -> bytes:
    """What the program reads: one line of JSON."""
    told = {
        "prompt_id": prompt.prompt_id,
        "text": prompt.text,
        "messages": [dict(message) for message in prompt.messages],
        "answer": prompt.answer,
        "metadata": dict(prompt.metadata),
        "source": prompt.source,
    }
    return json.dumps(told, default=str).encode() + b"\n"


def _variables(base_url: str, key: str) -> dict[str, str]:
    """What OpenAI's clients look at. The endpoint is on this machine, and no proxy's affair."""
    return {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": key, **without_proxy(HOST)}
