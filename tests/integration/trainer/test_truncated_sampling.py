"""Tokens that top-p, top-k or min-p left to draw from: the engine tells them, and the trainer scores over the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ais.contracts.sampling import Precision, SamplingParameters
from ais.contracts.truncation.kept import KeptTokens
from ais.rollout.engine import Completion, GenerationRequest
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.batch import Batch, ServedPolicy
from ais.rollout.engines.torch_engine.slots import Group
from ais.rollout.engines.torch_engine.weights import read_tensors, rounded_weights
from ais.trainer.policy import scoring
from ais.trainer.policy.microbatch import Microbatch, Sample, cut
from ais.trainer.policy.policy import Policy
from tests.support.records import trajectory_of

MODEL = Path("examples/sort16/model")
PROMPT = (1, 7, 3, 9, 12, 5, 5, 4, 8, 11, 10, 3, 6, 6, 9, 4, 12, 14)
BF16 = Precision(weights="bf16")
TRUNCATED = [{"top_p": 0.8}, {"top_p": 0.95}, {"top_k": 3}, {"min_p": 0.05}, {"top_p": 0.9, "top_k": 8, "min_p": 0.01}]


@torch.inference_mode()
def sampled(limits: Mapping[str, float], precision: Precision = BF16, for_training: bool = True) -> list[Sample]:
    """32 responses of the demo policy, sampled so by the torch engine."""
    architecture = read_architecture(MODEL)
    weights = rounded_weights(read_tensors(snapshot_files(MODEL), architecture), architecture, precision)
    batch = Batch(architecture, precision, ServedPolicy(weights, version=0, digest=""), slots=8, positions=40)
    sampling = SamplingParameters.model_validate({"max_new_tokens": 20, "temperature": 1.2, **limits})
    request = GenerationRequest("group", PROMPT, samples=32, sampling=sampling, for_training=for_training)
    batch.submit(Group(0, request, architecture.stop_token_ids, seed=0, arrived=0.0))
    samples = []
    while not batch.slots.idle:
        for ended in batch.step():
            one = ended.outcome
            assert isinstance(one, Completion)
            trajectory = trajectory_of(
                one.token_ids, "group", one.index, one.logprobs, trajectory_id=str(one.index), spans=one.spans,
                sampling=sampling, precision=precision, engine="torch", engine_version="", replica_id="", kept=one.kept,
            )  # fmt: skip
            samples.append(Sample(np.array(PROMPT), trajectory))
    return samples


def without_kept(samples: list[Sample]) -> list[Sample]:
    """As a trainer sees them that scores over the whole vocabulary."""
    return [replace(sample, trajectory=replace(sample.trajectory, kept=None)) for sample in samples]


@torch.no_grad()
def log_ratios(samples: list[Sample]) -> torch.Tensor:
    (microbatch,) = cut(samples, tokens_per_microbatch=100_000)
    return Policy.load(MODEL, "cpu").score(microbatch).logprobs - microbatch.behaviour_logprobs


@pytest.mark.parametrize("limits", TRUNCATED, ids=str)
def test_ratios_of_identical_policies_are_1_and_would_not_be_over_the_whole_vocabulary(
    limits: dict[str, float],
) -> None:
    samples = sampled(limits)
    assert log_ratios(samples).abs().mean() < 0.002  # what BF16 sums in another order leave
    assert log_ratios(without_kept(samples)).exp().mean() < 0.985


def test_kept_tokens_are_told_where_they_are_asked_for_and_there_is_a_choice() -> None:
    samples = sampled({"top_k": 3})
    for sample in samples:
        kept = sample.trajectory.kept
        assert kept is not None
        assert kept.counts.tolist() == [2] * len(sample.trajectory.token_ids)
    assert all(sample.trajectory.kept is None for sample in sampled({"top_k": 3}, for_training=False))
    assert all(sample.trajectory.kept is None for sample in sampled({}))
    assert all(sample.trajectory.kept is None for sample in sampled({"temperature": 0.0, "top_k": 3}))


def by_hand(policy: Policy, microbatch: Microbatch, kept: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies of each token among those kept, one token after the other."""
    whole = policy.distribution(replace(microbatch, kept_counts=None, kept_ids=None))
    logprobs, entropies = [], []
    for row, target, ids in zip(whole, microbatch.targets.tolist(), kept, strict=True):
        among = torch.log_softmax(row[sorted({target, *ids})], dim=-1)
        logprobs.append(among[sorted({target, *ids}).index(target)])
        entropies.append(-(among.exp() * among).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("pieces", [1, 5])
def test_the_trainer_scores_and_differentiates_over_the_kept_tokens_alone(
    pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (microbatch,) = cut(sampled({"top_p": 0.9}), tokens_per_microbatch=100_000)
    assert microbatch.kept_counts is not None
    assert microbatch.kept_ids is not None
    kept = [ids.tolist() for ids in torch.split(microbatch.kept_ids, microbatch.kept_counts.tolist())]
    policy = Policy.load(MODEL, "cpu")
    if pieces > 1:
        tokens = -(-len(microbatch.targets) // pieces)
        monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", tokens * policy.vocab_size)
    policy.scoring.differentiate_entropy = True
    scores, found = policy.score(microbatch), []
    for logprobs, entropies in ((scores.logprobs, scores.entropy), by_hand(policy, microbatch, kept)):
        policy.model.zero_grad()
        (logprobs.sum() + 0.1 * entropies.sum()).backward()
        gradients = torch.cat([one.grad.flatten() for one in policy.model.parameters() if one.grad is not None])
        found.append((logprobs.detach(), entropies.detach(), gradients.clone()))
    (logprobs, entropies, gradients), expected = found
    torch.testing.assert_close(logprobs, expected[0], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(entropies, expected[1], atol=2e-4, rtol=1e-3)
    assert (gradients - expected[2]).norm() < 0.01 * expected[2].norm()  # gradients of single weights are BF16 products


def test_truncated_and_whole_responses_do_not_share_a_pass() -> None:
    mixed = [*sampled({"top_k": 3})[:4], *sampled({})[:4]]
    parts = cut(mixed, tokens_per_microbatch=100_000)
    assert [part.kept_counts is None for part in parts] == [True, False]


def test_kept_tokens_of_turns_and_of_an_answer_that_is_cut_stay_with_their_tokens() -> None:
    one, other = KeptTokens.of([np.array([4, 5]), np.array([], int)]), KeptTokens.of([np.array([7])])
    both = KeptTokens.joined([one, other])
    assert (both.counts.tolist(), both.token_ids.tolist()) == ([2, 0, 1], [4, 5, 7])
    assert (both.first(2).counts.tolist(), both.first(2).token_ids.tolist()) == ([2, 0], [4, 5])
