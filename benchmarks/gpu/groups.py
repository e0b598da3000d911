"""Groups to train on that no engine sampled: random tokens, as likely as the policy finds them but for some noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ais.contracts.sampling import FinishReason, Precision, SamplingParameters
from ais.contracts.trajectory import PolicySpan, ScoredGroup, Trajectory
from ais.trainer.policy.microbatch import Sample, cut
from ais.trainer.policy.policy import Policy

MISMATCH = 0.03
"""Standard deviation of the log-ratios, nats: about that of E4M3."""


@dataclass(frozen=True)
class Shape:
    """A batch: every group has `samples` responses of `response` tokens to a prompt of `prompt`."""

    groups: int
    samples: int
    prompt: int
    response: int

    @property
    def tokens(self) -> int:
        """Response tokens."""
        return self.groups * self.samples * self.response


def made_up(policy: Policy, shape: Shape, tokens_per_microbatch: int, precision: Precision) -> list[ScoredGroup]:
    """The groups of one batch, for the policy of now."""
    random = np.random.default_rng(0)
    groups = [_blank(policy.vocab_size, shape, ordinal, random, precision) for ordinal in range(shape.groups)]
    samples = [Sample(group.prompt_token_ids, one) for group in groups for one in group.trajectories]
    logprobs: dict[int, np.ndarray] = {}
    for microbatch in cut(samples, tokens_per_microbatch):
        with torch.no_grad():
            scores = policy.score(microbatch.to(policy.device)).logprobs.cpu()
        parts = torch.split(scores, microbatch.lengths.tolist())
        logprobs |= {index: part.numpy() for index, part in zip(microbatch.sequences.tolist(), parts, strict=True)}
    return [
        replace(
            group,
            trajectories=tuple(
                replace(one, behaviour_logprobs=_noisy(logprobs[ordinal * shape.samples + index], random))
                for index, one in enumerate(group.trajectories)
            ),
        )
        for ordinal, group in enumerate(groups)
    ]


def _noisy(logprobs: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.minimum(logprobs + random.normal(0.0, MISMATCH, logprobs.shape), 0.0).astype(np.float32)


def _blank(
    vocabulary: int, shape: Shape, ordinal: int, random: np.random.Generator, precision: Precision
) -> ScoredGroup:
    trajectories = tuple(
        Trajectory(
            trajectory_id=f"{ordinal}/{index}",
            group_id=str(ordinal),
            sample_index=index,
            token_ids=random.integers(3, vocabulary, shape.response).astype(np.int32),
            behaviour_logprobs=np.zeros(shape.response, dtype=np.float32),
            spans=(PolicySpan(0, 0, shape.response),),
            finish_reason=FinishReason.STOP,
            sampling=SamplingParameters(max_new_tokens=shape.response),
            precision=precision,
            engine="benchmark",
            engine_version="0",
            replica_id="replica-0",
            first_token_seconds=0.0,
            total_seconds=0.0,
        )
        for index in range(shape.samples)
    )
    prompt = random.integers(3, vocabulary, shape.prompt).astype(np.int32)
    rewards = tuple(float(index % 2) for index in range(shape.samples))
    return ScoredGroup(str(ordinal), ordinal, str(ordinal), prompt, trajectories, rewards, "benchmark", 1)
