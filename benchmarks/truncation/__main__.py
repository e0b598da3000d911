"""Importance ratios under truncated sampling, of a policy with itself: over the tokens kept, and over the vocabulary.

The torch engine samples the demo's policy in BF16, and the trainer scores what it sampled. The two policies are the
same, so every ratio should be 1. A trainer that scores over the whole vocabulary, where the sampler drew among the
tokens kept, finds ratios whose mean is the mass kept.

    ais bench truncation
    ais bench truncation --prompts 4 --samples 8
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ais.contracts.sampling import Precision, SamplingParameters
from ais.contracts.trajectory import Trajectory, encode_trajectory
from ais.rollout.engine import GenerationRequest, SamplingFailedError
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.batch import Batch, ServedPolicy
from ais.rollout.engines.torch_engine.slots import Group
from ais.rollout.engines.torch_engine.weights import read_tensors, rounded_weights
from ais.trainer.policy.microbatch import Sample, cut
from ais.trainer.policy.policy import Policy
from benchmarks.support.report import Figure, figure, publish
from benchmarks.truncation.report import COLUMNS, rows

MODEL = Path(__file__).parents[2] / "examples" / "sort16" / "model"
LIMITS: dict[str, Mapping[str, float]] = {
    "whole": {},
    "top_p_0.8": {"top_p": 0.8},
    "top_p_0.9": {"top_p": 0.9},
    "top_p_0.95": {"top_p": 0.95},
    "top_k_4": {"top_k": 4},
    "min_p_0.05": {"min_p": 0.05},
}
BEGIN, EQUALS, DIGITS = 1, 15, range(3, 13)
"""Tokens of the demo's vocabulary."""
PRECISION = Precision(weights="bf16")


@torch.inference_mode()
def sampled(limits: Mapping[str, float], prompts: Sequence[tuple[int, ...]], samples: int) -> list[Sample]:
    """Responses of the demo's policy to each prompt, as they would come over the wire."""
    architecture = read_architecture(MODEL)
    weights = rounded_weights(read_tensors(snapshot_files(MODEL), architecture), architecture, PRECISION)
    batch = Batch(architecture, PRECISION, ServedPolicy(weights, 0, ""), slots=64, positions=40)
    sampling = SamplingParameters.model_validate({"max_new_tokens": 20, **limits})
    for ticket, prompt in enumerate(prompts):
        request = GenerationRequest(str(ticket), prompt, samples, sampling, for_training=True)
        batch.submit(Group(ticket, request, architecture.stop_token_ids, seed=ticket, arrived=0.0))
    found = []
    while not batch.slots.idle:
        for ended in batch.step():
            one = ended.outcome
            if isinstance(one, SamplingFailedError):
                raise one
            trajectory = Trajectory(
                trajectory_id=f"{ended.ticket}/{one.index}", group_id=str(ended.ticket), sample_index=one.index,
                token_ids=one.token_ids, behaviour_logprobs=one.logprobs, spans=one.spans, kept=one.kept,
                finish_reason=one.finish_reason, sampling=sampling, precision=PRECISION, engine="torch",
                engine_version="", replica_id="", first_token_seconds=0.0, total_seconds=0.0,
            )  # fmt: skip
            found.append(Sample(np.array(prompts[ended.ticket]), trajectory))
    return found


@torch.no_grad()
def log_ratios(policy: Policy, samples: Sequence[Sample]) -> torch.Tensor:
    parts = [policy.score(one).logprobs - one.behaviour_logprobs for one in cut(samples, tokens_per_microbatch=16_384)]
    return torch.cat(parts)


def figures_of(policy: Policy, name: str, samples: Sequence[Sample]) -> dict[str, Figure]:
    logs = log_ratios(policy, samples)
    over_all = [replace(one, trajectory=replace(one.trajectory, kept=None)) for one in samples]
    tokens = sum(len(one.trajectory.token_ids) for one in samples)
    others = sum(len(one.trajectory.kept.token_ids) for one in samples if one.trajectory.kept is not None)

    def size(parts: Sequence[Sample]) -> float:
        return sum(len(encode_trajectory(one.trajectory).SerializeToString()) for one in parts) / tokens

    return {
        f"{name}_ratio": figure(float(logs.exp().mean()), "1", 1.0),
        f"{name}_ratio_over_all": figure(float(log_ratios(policy, over_all).exp().mean()), "1", 1.0),
        f"{name}_gap": figure(float(logs.abs().mean()), "nats"),
        f"{name}_kept": figure(1 + others / tokens, "tokens"),
        f"{name}_bytes": figure(size(samples) - size(over_all), "bytes a token"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16, help="responses to each prompt")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(arguments.seed)
    prompts = [(BEGIN, *(draw.choice(DIGITS) for _ in range(16)), EQUALS) for _ in range(arguments.prompts)]
    policy = Policy.load(MODEL, "cpu")
    figures: dict[str, Figure] = {}
    for name, limits in LIMITS.items():
        figures |= figures_of(policy, name, sampled(limits, prompts, arguments.samples))
    table = Table(*COLUMNS)
    for row in rows(figures):
        table.add_row(*(part.strip("`") for part in row))
    Console().print(table)
    publish("truncation", figures, f"{arguments.prompts} x {arguments.samples} responses, seed {arguments.seed}")


if __name__ == "__main__":
    main()
