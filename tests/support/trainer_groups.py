"""Builders of groups as the collector would publish them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ais.contracts.queue import Entry
from ais.contracts.sampling import SamplingParameters
from ais.contracts.trajectory import PolicySpan, ScoredGroup, Trajectory, encode_group
from tests.support.records import trajectory_of

DIGITS = range(3, 13)
"""Token ids of the demo model's digits."""


def make_trajectory(
    group_id: str,
    index: int,
    token_ids: Sequence[int],
    logprobs: Sequence[float] | None = None,
    version: int = 0,
    **sampling: Any,
) -> Trajectory:
    return trajectory_of(
        token_ids,
        group_id,
        index,
        logprobs,
        spans=(PolicySpan(version, 0, len(token_ids)),),
        sampling=SamplingParameters(**sampling),
        first_token_seconds=0.1,
        total_seconds=0.2,
    )


def make_group(
    ordinal: int, samples: int = 4, seed: int = 0, lengths: tuple[int, int] = (3, 9), version: int = 0, **sampling: Any
) -> ScoredGroup:
    """Random digits; response lengths are drawn from `lengths`, rewards alternate."""
    random = np.random.default_rng((seed, ordinal))
    group_id = f"group-{ordinal}"
    responses = [random.choice(DIGITS, random.integers(*lengths, endpoint=True)).tolist() for _ in range(samples)]
    # As near to a random policy of the demo model, which gives about -3.5, as a quantised one would be: it is trusted.
    logprobs = [(-random.random(len(response)) - 3.1).tolist() for response in responses]
    return ScoredGroup(
        group_id=group_id,
        ordinal=ordinal,
        prompt_id=f"prompt-{ordinal}",
        prompt_token_ids=np.concatenate([[1], random.choice(DIGITS, random.integers(2, 6)), [15]]).astype(np.int32),
        trajectories=tuple(
            make_trajectory(group_id, index, responses[index], logprobs[index], version, **sampling)
            for index in range(samples)
        ),
        rewards=tuple(float((ordinal + index) % 3 == 0) for index in range(samples)),
        task="test",
        attempt=1,
    )


def make_entry(group: ScoredGroup, ordinal: int | None = None, entry_id: str | None = None) -> Entry:
    ordinal = group.ordinal if ordinal is None else ordinal
    return Entry(entry_id or f"{ordinal}-0", ordinal, encode_group(group))
