"""Recorded groups for the replay engine, made up and written by the real encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ais.contracts.recording import write_recording
from ais.contracts.trajectory import ScoredGroup, encode_group
from tests.support.records import trajectory_of


def recorded_group(prompt: Sequence[int], lengths: Sequence[int], token: int = 3) -> ScoredGroup:
    """One response of each length to `prompt`, of `token` alone."""
    return ScoredGroup(
        group_id="recorded",
        ordinal=0,
        prompt_id="recorded",
        prompt_token_ids=np.asarray(prompt, dtype=np.int32),
        trajectories=tuple(
            trajectory_of(
                np.full(length, token, dtype=np.int32),
                "recorded",
                index,
                np.linspace(-1.0, -0.5, length, dtype=np.float32),
                replica_id="test",
            )
            for index, length in enumerate(lengths)
        ),
        rewards=(0.0,) * len(lengths),
        task="recorded",
        attempt=1,
    )


def recording(directory: Path, *groups: ScoredGroup) -> Path:
    """A file of these groups."""
    file = directory / "recorded.groups"
    write_recording(file, map(encode_group, groups))
    return file
