"""A group of episodes that programs play: each calls the policy by OpenAI's API, and says what that was worth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ais.collector.episodes.call import Answers
from ais.collector.episodes.group import Episode, answers_of, play_all
from ais.collector.episodes.recording import Branch, Recording, main_branch
from ais.collector.episodes.table import Table
from ais.collector.judging.harness.host import Harness
from ais.collector.judging.judge import UnjudgedError, on_unjudged
from ais.collector.judging.judgement import Failure
from ais.collector.settings.environments import EPISODE
from ais.contracts.reward_components import JudgementFailure, RewardComponent
from ais.runtime.tasks import end_tasks


@dataclass(frozen=True)
class _Played:
    """What a program has done."""

    recording: Recording
    failure: Failure | None


async def play_by_programs(table: Table, harness: Harness, on_arrival: Callable[[], object]) -> Answers:
    """All episodes of a group; `on_arrival` is called for each that ends.

    Each is one trajectory: of the branches that begin with the group's prompt, which is that of the first call of the
    first episode, the one of the most sampled tokens. Raises GenerationError, UnjudgedError and UnavailableError.
    """
    with table.client.held():
        games = (_played(table, harness, index, on_arrival) for index in range(table.call.samples))
        played = await table.by_the_deadline(play_all(games))
    first = next((branch for branch in played[0].recording.branches if branch.turns), None)
    prompt = [] if first is None else first.prompt_token_ids
    episodes = [await _episode(table, harness, index, one, prompt) for index, one in enumerate(played)]
    return answers_of(prompt, episodes)


async def _played(table: Table, harness: Harness, index: int, on_arrival: Callable[[], object]) -> _Played:
    recording = Recording(table, index)
    running = asyncio.create_task(harness.run(recording, table.prompt))
    either: tuple[asyncio.Future[Any], ...] = (running, recording.broken)
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if recording.broken.done():
            recording.broken.result()
        played = _Played(recording, running.result())
    finally:
        await end_tasks(running)
        recording.close()
        if not recording.broken.cancel():
            recording.broken.exception()  # it is told once, above
    on_arrival()
    return played


async def _episode(table: Table, harness: Harness, index: int, played: _Played, prompt: list[int]) -> Episode:
    failure, recording = played.failure, played.recording
    if failure is not None:
        on_unjudged(harness.on_failure, table.settings.name, table.prompt, failure)
    branch = main_branch(recording.branches, prompt)
    if branch is None:
        why = failure.reason if failure else "the program did not begin as that of the group's first episode did"
        raise UnjudgedError(f"episode {index} of prompt {table.prompt.prompt_id!r} is none: {why}")
    trajectory = table.ended(index, branch.turns, "failed" if failure else recording.budget or "done")
    return Episode(trajectory, await _parts(table, branch, recording.reward, failure))


async def _parts(
    table: Table, branch: Branch, reward: float | None, failure: Failure | None
) -> tuple[RewardComponent, ...]:
    if failure is not None:
        reason = JudgementFailure(0, failure.outcome.value, failure.reason)
        return (RewardComponent(EPISODE, 1.0, (0.0,), (reason,)),)
    if reward is not None:
        return (RewardComponent(EPISODE, 1.0, (reward,)),)
    judged = await table.exercise.judged(table.prompt, (branch.turns[-1].response,))
    return judged.components
