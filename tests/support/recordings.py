"""Recorded groups for the replay engine, made up and written by the real encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ais.contracts.recording import write_recording
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import PolicySpan, ScoredGroup, Trajectory, encode_group


def recorded_group(prompt: Sequence[int], lengths: Sequence[int], token: int = 3) -> ScoredGroup:
    """One response of each length to `prompt`, of `token` alone."""
    return ScoredGroup(
        group_id="recorded",
        ordinal=0,
        prompt_id="recorded",
        prompt_token_ids=np.asarray(prompt, dtype=np.int32),
        trajectories=tuple(
            Trajectory(
                trajectory_id=f"recorded/{index}",
                group_id="recorded",
                sample_index=index,
                token_ids=np.full(length, token, dtype=np.int32),
                behaviour_logprobs=np.linspace(-1.0, -0.5, length, dtype=np.float32),
                spans=(PolicySpan(0, 0, length),),
                finish_reason=FinishReason.STOP,
                sampling=SamplingParameters(),
                precision=Precision(),
                engine="test",
                engine_version="0",
                replica_id="test",
                first_token_seconds=0.0,
                total_seconds=0.0,
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
