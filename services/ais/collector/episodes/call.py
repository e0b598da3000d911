"""How a prompt is to be answered, and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ais.collector.judging.judge import Judged
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import Trajectory

Verify = Callable[[tuple[Trajectory, ...]], Awaitable[None]]
"""Raises MalformedRecordError for trajectories that must not be used."""


@dataclass(frozen=True)
class Call:
    """A prompt's answers that are wanted of one replica."""

    name: str
    """The group's, in no other use."""
    samples: int
    sampling: SamplingParameters
    """How each turn is sampled, with the seed of the group."""
    vocab_size: int
    deadline_seconds: float
    """For all of it."""
    served: int = 0
    """The policy version that the replica serves already: an older one samples nothing."""
    is_trained_on: bool = False
    """Whether episodes are bound by environment.max_versions_apart, and tokens come with what truncated sampling left
    to draw from."""


@dataclass(frozen=True)
class Answers:
    """A group that is sampled and judged."""

    prompt_token_ids: list[int]
    trajectories: tuple[Trajectory, ...]
    judged: Judged
