"""Builders of trajectories of several turns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ais.contracts.sampling import FinishReason
from ais.contracts.trajectory import PolicySpan, Trajectory
from ais.contracts.turns import Turn
from tests.support.records import trajectory_of

DIGITS = range(3, 13)
"""Token ids of the demo model's digits."""


def episode_of(
    shape: Sequence[tuple[int, int]], seed: int = 0, anew: Collection[int] = (), **fields: Any
) -> Trajectory:
    """An episode of random digits: of each turn, how many tokens of context and how many sampled. The first turn's
    context, which is the prompt, is left out. The turns of the numbers `anew` begin anew."""
    random = np.random.default_rng(seed)
    tokens = sum(sampled for _, sampled in shape)
    turns = tuple(
        Turn(
            context_token_ids=random.choice(DIGITS, context if place else 0).astype(np.int32),
            tokens=sampled,
            finish_reason=FinishReason.STOP,
            max_new_tokens=sampled + 3,
            begins_anew=place in anew,
        )
        for place, (context, sampled) in enumerate(shape)
    )
    usual: dict[str, Any] = {
        "behaviour_logprobs": -random.random(tokens) - 3.1,
        "spans": (PolicySpan(0, 0, tokens),),
        "turns": turns,
    }
    return trajectory_of(random.choice(DIGITS, tokens), **usual | fields)
