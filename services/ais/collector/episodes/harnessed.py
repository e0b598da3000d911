"""A group of episodes that programs play: each calls the policy by OpenAI's API, and says what that was worth."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ais.collector.episodes.call import Answers
from ais.collector.episodes.group import Episode, answers_of, play_all
from ais.collector.episodes.recording import Branch, Recording, all_turns, main_branch
from ais.collector.episodes.table import Table
from ais.collector.judging.harness.host import Harness
from ais.collector.judging.judge import UnjudgedError, on_unjudged
from ais.collector.judging.judgement import Failure, Outcome
from ais.collector.settings.environments import EPISODE, EnvironmentSettings
from ais.contracts.reward_components import JudgementFailure, RewardComponent
from ais.runtime.process import UnavailableError
from ais.runtime.tasks import end_tasks
from ais.runtime.text import printable

PAUSES = (0.5, 2.0, 8.0)
"""Seconds before a program that has had no turn is started again."""


@dataclass(frozen=True)
class _Played:
    """What a program has done."""

    recording: Recording
    failure: Failure | None

    @property
    def is_lost(self) -> bool:
        """Whether whoever played it could not go on: somebody else plays it from the beginning."""
        return self.failure is not None and self.failure.outcome is Outcome.LOST


async def play_by_programs(table: Table, harness: Harness, on_arrival: Callable[[], object]) -> Answers:
    """All episodes of a group; `on_arrival` is called for each that ends.

    Each is one trajectory: of the branches that begin with the group's prompt, which is that of the first call of the
    first episode, the one of the most sampled tokens, or that one and all others. Raises GenerationError and
    UnjudgedError, and UnavailableError also for a program that does not work.
    """
    with table.client.held():
        played = await play_all(_played(table, harness, index, on_arrival) for index in range(table.call.samples))
    prompt = played[0].recording.branches[0].prompt_token_ids
    episodes = await play_all(_episode(table, harness, index, one, prompt) for index, one in enumerate(played))
    return answers_of(prompt, episodes)


async def _played(table: Table, harness: Harness, index: int, on_arrival: Callable[[], object]) -> _Played:
    """One episode. A program that has no turn is started again, and one that was lost, which costs no other episode.

    Raises UnavailableError where it has none again and again, nor had any other program in the meantime; UnjudgedError
    where others had, and where they are elsewhere.
    """
    worked, calls = harness.record.worked, 0
    for pause in (0.0, *PAUSES):
        await asyncio.sleep(pause)
        async with harness.place() as player:  # the time to wait for it is not the episode's
            played = await _started(replace(table, begun=time.monotonic()), player, index, calls)
        calls = played.recording.calls
        if played.recording.branches and not played.is_lost:
            harness.record.worked += 1
            on_arrival()
            return played
    why = f"started {1 + len(PAUSES)} times, it asked the policy nothing: {_why_silent(played)}"
    if played.is_lost:
        why = f"lost again and again: {_why_silent(played)}"
    if harness.record.worked == worked and not table.settings.plays_elsewhere:
        raise UnavailableError(f"{_does_not_work(table.settings)}: {why}")
    raise UnjudgedError(f"episode {index} of prompt {table.prompt.prompt_id!r} is none: the program was {why}")


def _does_not_work(settings: EnvironmentSettings) -> str:
    if settings.taskset is not None:
        return f"the environment of environment.taskset does not work ({settings.taskset})"
    command = printable(shlex.join(settings.command), 200)
    return f"the program of environment.command does not work ({command})"


async def _started(table: Table, harness: Harness, index: int, calls: int) -> _Played:
    recording = Recording(table, index, calls)
    running = asyncio.create_task(table.by_the_deadline(harness.run(recording, table.prompt)))
    either: tuple[asyncio.Future[Any], ...] = (running, recording.broken)
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if recording.broken.done():
            recording.broken.result()
        return _Played(recording, running.result())
    finally:
        recording.close()
        await end_tasks(running)
        if not recording.broken.cancel():
            recording.broken.exception()  # it is told once, above


def _why_silent(played: _Played) -> str:
    why = played.failure.reason if played.failure else "it ended"
    refused = played.recording.refused
    return f"{why}; its last call was refused: {refused}" if refused else why


async def _episode(table: Table, harness: Harness, index: int, played: _Played, prompt: list[int]) -> Episode:
    failure, recording = played.failure, played.recording
    if failure is not None:
        on_unjudged(harness.on_failure, table.settings.name, table.prompt, failure)
    branch = main_branch(recording.branches, prompt)
    if branch is None:
        why = failure.reason if failure else "the program did not begin as that of the group's first episode did"
        raise UnjudgedError(f"episode {index} of prompt {table.prompt.prompt_id!r} is none: {why}")
    turns = branch.turns if table.settings.branches == "longest" else all_turns(branch, recording.branches)
    trajectory = table.ended(index, turns, "failed" if failure else recording.budget or "done")
    return Episode(trajectory, await _parts(table, branch, recording.reward, failure))


async def _parts(
    table: Table, branch: Branch, reward: float | None, failure: Failure | None
) -> tuple[RewardComponent, ...]:
    if failure is not None:
        reason = JudgementFailure(0, failure.outcome.value, failure.reason)
        return (RewardComponent(EPISODE, 1.0, (0.0,), (reason,)),)
    if reward is not None:
        return (RewardComponent(EPISODE, 1.0, (reward,)),)
    judged = await table.exercise.judge.judge(table.prompt, (branch.judged,))
    return judged.components
