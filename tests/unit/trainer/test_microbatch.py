"""Cutting samples into microbatches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ais.contracts.sampling import Precision
from ais.trainer.policy.microbatch import Sample, cut, deal, nothing
from tests.support.trainer_groups import make_group

SAMPLES = [
    Sample(group.prompt_token_ids, trajectory)
    for group in (make_group(ordinal, lengths=(1, 12)) for ordinal in range(6))
    for trajectory in group.trajectories
]


def test_every_sample_is_in_exactly_one_microbatch_within_the_budget() -> None:
    microbatches = cut(SAMPLES, tokens_per_microbatch=60)
    assert len(microbatches) > 1
    assert all(microbatch.input_ids.numel() <= 60 for microbatch in microbatches)
    chosen = torch.cat([microbatch.sequences for microbatch in microbatches])
    assert sorted(chosen.tolist()) == list(range(len(SAMPLES)))


def test_a_sample_larger_than_the_budget_stands_alone() -> None:
    assert [len(microbatch.sequences) for microbatch in cut(SAMPLES, tokens_per_microbatch=1)] == [1] * len(SAMPLES)


def test_each_target_is_read_from_the_position_before_it() -> None:
    (microbatch,) = cut(SAMPLES, tokens_per_microbatch=10_000)
    begin = 0
    for row, (index, length) in enumerate(zip(microbatch.sequences.tolist(), microbatch.lengths.tolist(), strict=True)):
        sample, tokens = SAMPLES[index], slice(begin, begin + length)
        text = [*sample.prompt_token_ids.tolist(), *sample.trajectory.token_ids.tolist()]
        assert microbatch.rows[tokens].unique().tolist() == [row]
        predicted = [text[column + 1] for column in microbatch.columns[tokens].tolist()]
        assert microbatch.targets[tokens].tolist() == predicted
        assert microbatch.targets[tokens].tolist() == sample.trajectory.token_ids.tolist()
        assert microbatch.input_ids[row, : len(text) - 1].tolist() == text[:-1]
        assert microbatch.input_ids[row, len(text) - 1 :].sum() == 0
        assert microbatch.behaviour_logprobs[tokens].tolist() == sample.trajectory.behaviour_logprobs.tolist()
        begin += length


def test_samples_of_different_precision_are_never_in_one_microbatch() -> None:
    precisions = [Precision(weights="e5m2" if index % 3 else "e4m3") for index in range(len(SAMPLES))]
    mixed = [
        replace(sample, trajectory=replace(sample.trajectory, precision=precision))
        for sample, precision in zip(SAMPLES, precisions, strict=True)
    ]
    microbatches = cut(mixed, tokens_per_microbatch=10_000)
    assert len(microbatches) == 2
    for microbatch in microbatches:
        assert {precisions[index] for index in microbatch.sequences.tolist()} == {microbatch.precision}


@pytest.mark.parametrize("ranks", [1, 2, 4, 50])
def test_every_sample_is_dealt_to_one_rank_and_the_ranks_have_as_much_to_do(ranks: int) -> None:
    hands = deal(SAMPLES, ranks)
    assert len(hands) == ranks
    assert sorted(index for hand in hands for index in hand) == list(range(len(SAMPLES)))
    work = [sum(SAMPLES[index].input_length for index in hand) for hand in hands]
    longest = max(sample.input_length for sample in SAMPLES)
    assert max(work) - min(work) <= longest


def test_one_rank_cuts_what_a_process_without_ranks_cuts() -> None:
    (hand,) = deal(SAMPLES, 1)
    for dealt, whole in zip(cut(SAMPLES, 60, chosen=hand), cut(SAMPLES, 60), strict=True):
        assert dealt.sequences.tolist() == whole.sequences.tolist()
        assert torch.equal(dealt.input_ids, whole.input_ids)


def test_nothing_has_no_tokens_and_is_still_read_by_a_model() -> None:
    microbatch = nothing(Precision())
    assert microbatch.targets.numel() == microbatch.sequences.numel() == 0
    assert microbatch.input_ids.numel() > 0
