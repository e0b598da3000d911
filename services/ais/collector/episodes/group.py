"""From the episodes of a group to its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ais.collector.episodes.call import Answers
from ais.collector.judging.judge import Judged, weighted_sums
from ais.collector.settings.environments import TURNS
from ais.contracts.reward_components import JudgementFailure, RewardComponent
from ais.contracts.trajectory import Trajectory
from ais.runtime.tasks import end_tasks

Played = TypeVar("Played")


@dataclass(frozen=True)
class Episode:
    """One that has ended."""

    trajectory: Trajectory
    parts: tuple[RewardComponent, ...]
    """Each with one score."""


async def play_all(games: Iterable[Coroutine[Any, Any, Played]]) -> list[Played]:
    """What becomes of all, played at once; the first that goes wrong ends all."""
    tasks = [asyncio.create_task(game) for game in games]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await end_tasks(*tasks)


def answers_of(prompt_token_ids: list[int], episodes: Sequence[Episode]) -> Answers:
    """The judged group. Pure."""
    turns = tuple(float(len(episode.trajectory.turns)) for episode in episodes)
    parts = (*together([episode.parts for episode in episodes]), RewardComponent(TURNS, 0.0, turns))
    judged = Judged(weighted_sums(parts, len(episodes)), parts)
    return Answers(prompt_token_ids, tuple(episode.trajectory for episode in episodes), judged)


def together(episodes: Sequence[Sequence[RewardComponent]]) -> tuple[RewardComponent, ...]:
    """The components of a group from those of its episodes, each with one score, 0 where an episode lacks it. Pure."""
    kinds = dict.fromkeys((part.name, part.weight) for parts in episodes for part in parts)
    found = []
    for name, weight in kinds:
        mine = [next((part for part in parts if part.name == name), None) for parts in episodes]
        found.append(
            RewardComponent(
                name,
                weight,
                tuple(0.0 if part is None else part.scores[0] for part in mine),
                tuple(
                    JudgementFailure(index, failure.outcome, failure.text)
                    for index, part in enumerate(mine)
                    if part is not None
                    for failure in part.failures
                ),
            )
        )
    return tuple(found)
