"""The trainer's imitation of the sampling policy against the engine that samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ais.contracts.sampling import Precision, SamplingParameters
from ais.rollout.engine import Completion, GenerationRequest
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.batch import Batch, ServedPolicy
from ais.rollout.engines.torch_engine.slots import Group
from ais.rollout.engines.torch_engine.weights import read_tensors, rounded_weights
from ais.trainer.policy.microbatch import Sample, cut
from ais.trainer.policy.policy import Policy
from tests.support.records import trajectory_of

MODEL = Path("examples/sort16/model")
PROMPT = (1, 7, 3, 9, 12, 5, 5, 4, 8, 11, 10, 3, 6, 6, 9, 4, 12, 14)
"""BOS, sixteen digits, `=`."""


@torch.inference_mode()
def sampled(precision: Precision) -> list[Sample]:
    """32 responses of the demo policy, sampled by the engine at that precision."""
    architecture = read_architecture(MODEL)
    weights = rounded_weights(read_tensors(snapshot_files(MODEL), architecture), architecture, precision)
    batch = Batch(architecture, precision, ServedPolicy(weights, version=0, digest=""), slots=32, positions=40)
    sampling = SamplingParameters(max_new_tokens=20)
    request = GenerationRequest("group", PROMPT, samples=32, sampling=sampling)
    batch.submit(Group(0, request, architecture.stop_token_ids, seed=0, arrived=0.0))
    samples = []
    while not batch.slots.idle:
        for ended in batch.step():
            completion = ended.outcome
            assert isinstance(completion, Completion)
            trajectory = trajectory_of(
                completion.token_ids,
                "group",
                completion.index,
                completion.logprobs,
                trajectory_id=str(completion.index),
                spans=completion.spans,
                sampling=sampling,
                precision=precision,
                engine="torch",
                engine_version="",
                replica_id="",
            )
            samples.append(Sample(np.array(PROMPT), trajectory))
    return samples


@pytest.mark.parametrize(
    "precision",
    [
        Precision(weights="e2m1"),
        Precision(weights="e2m1", scales="least_squares"),
        Precision(weights="e5m2", granularity="tensor", activations="e5m2", head=True),
        Precision(weights="e2m1", granularity="block", activations="bf16"),
    ],
    ids=str,
)
def test_the_trainer_computes_the_policy_that_samples_much_closer_than_its_own(precision: Precision) -> None:
    policy = Policy.load(MODEL, "cpu")
    (microbatch,) = cut(sampled(precision), tokens_per_microbatch=100_000)
    with torch.no_grad():
        own, imitated = (policy.score(microbatch, at).logprobs for at in (None, precision))
    mismatch, left = ((logs - microbatch.behaviour_logprobs).abs().mean() for logs in (own, imitated))
    assert left < mismatch / 10


def test_bf16_rollouts_are_imitated_by_the_plain_forward() -> None:
    policy, precision = Policy.load(MODEL, "cpu"), Precision(weights="bf16")
    (microbatch,) = cut(sampled(precision), tokens_per_microbatch=100_000)
    with torch.no_grad():
        assert torch.equal(policy.score(microbatch).logprobs, policy.score(microbatch, precision).logprobs)


def test_a_float32_head_is_the_same_in_the_engine_and_in_the_trainer() -> None:
    policy, precision = Policy.load(MODEL, "cpu"), Precision(weights="bf16", float32_head=True)
    (microbatch,) = cut(sampled(precision), tokens_per_microbatch=100_000)
    gaps = []
    with torch.no_grad():
        for policy.scoring.float32_head in (False, True):
            gaps.append((policy.score(microbatch).logprobs - microbatch.behaviour_logprobs).abs().median())
        assert torch.equal(policy.score(microbatch).logprobs, policy.score(microbatch, precision).logprobs)
    assert gaps[1] < gaps[0] / 100  # most of the last hidden states are equal to the bit


def test_gradients_pass_the_rounding_to_every_master_weight() -> None:
    precision = Precision(weights="e2m1", head=True)
    policy = Policy.load(MODEL, "cpu")
    (microbatch,) = cut(sampled(precision), tokens_per_microbatch=100_000)
    policy.score(microbatch, precision).logprobs.sum().backward()
    for name, master in policy.masters.items():
        assert master.grad is not None, name
        assert master.grad.dtype == torch.float32
        assert master.grad.norm() > 0, name


def test_a_policy_that_does_not_compute_in_bf16_is_not_taken_for_a_quantised_one() -> None:
    policy = Policy.load(MODEL, "cpu", compute_dtype=torch.float32)
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="imitated in BF16 alone"):
        policy.scoring.distribution(torch.tensor([PROMPT]), one, one, torch.ones(1), Precision())
