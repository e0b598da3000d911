"""Builders of the records that cross the wire: valid ones, of which a test states only what it is about."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ais.contracts.evaluation.results import Estimate, EvaluationResult, SourceScore
from ais.contracts.registry import ReplicaRecord
from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import PolicySpan, Trajectory


def replica_record(replica_id: str = "replica", **fields: Any) -> ReplicaRecord:
    """A replica that is ready and idle, with one slot, at addresses where nobody listens."""
    usual: dict[str, Any] = {
        "grpc_address": "127.0.0.1:1",
        "http_url": "http://127.0.0.1:1",
        "engine": "stand-in",
        "precision": Precision(),
        "model_type": "qwen3",
        "vocab_size": 23,
        "parameter_count": 1,
        "policy_version": 0,
        "policy_digest": "blake3:0",
        "ready": True,
        "slots": 1,
        "running_sequences": 0,
        "waiting_sequences": 0,
    }
    return ReplicaRecord(replica_id=replica_id, **usual | fields)


def trajectory_of(
    token_ids: ArrayLike,
    group_id: str = "group",
    sample_index: int = 0,
    behaviour_logprobs: ArrayLike | None = None,
    **fields: Any,
) -> Trajectory:
    """A response that ended by itself, sampled by version 0; without log-probs, each is -1."""
    tokens = np.asarray(token_ids, dtype=np.int32)
    logprobs = np.full(len(tokens), -1.0) if behaviour_logprobs is None else behaviour_logprobs
    usual: dict[str, Any] = {
        "trajectory_id": f"{group_id}/{sample_index}",
        "spans": (PolicySpan(0, 0, len(tokens)),),
        "finish_reason": FinishReason.STOP,
        "sampling": SamplingParameters(),
        "precision": Precision(),
        "engine": "test",
        "engine_version": "0",
        "replica_id": "replica-0",
        "first_token_seconds": 0.0,
        "total_seconds": 0.0,
    }
    return Trajectory(
        group_id=group_id,
        sample_index=sample_index,
        token_ids=tokens,
        behaviour_logprobs=np.asarray(logprobs, dtype=np.float32),
        **usual | fields,
    )


def evaluation_result(step: int, **rewards: float) -> EvaluationResult:
    """An evaluation of `step` with those mean rewards, by source; as many of its responses passed."""
    return EvaluationResult(
        step=step,
        first_version=step,
        last_version=step + 1,
        precision="bf16",
        time=1_700_000_000.0 + step,
        seconds=1.5,
        sources=tuple(
            SourceScore(
                source=source,
                prompts=8,
                unanswered=0,
                samples=1,
                reward=Estimate(mean=reward, interval=0.1),
                passed={1: Estimate(mean=reward, interval=0.1)},
                components={"answer": Estimate(mean=reward, interval=0.1), "length": Estimate(mean=-0.5, interval=0.0)},
                response_length_mean=7.0,
                truncated_share=0.0,
            )
            for source, reward in rewards.items()
        ),
    )
