"""The distribution that is sampled, and the draw from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ais.rollout.engines.torch_engine.sampling import (
    CHUNK,
    distribution,
    draw,
    draw_by_chunks,
    kept_beside,
    sample_key,
    uniforms,
)

LOGITS = torch.tensor([[2.0, 1.0, 0.5, -1.0, -3.0]])


def sampled_from(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> torch.Tensor:
    limits = (torch.tensor([one]) for one in (temperature, top_k, top_p, min_p))
    return distribution(LOGITS, *limits).exp()[0]


def test_temperature_divides_the_logits() -> None:
    torch.testing.assert_close(sampled_from(temperature=0.5), torch.softmax(LOGITS[0] / 0.5, -1))


@pytest.mark.parametrize("temperature", [1e-2, 1e-3, 9e-4, 1e-6, 1e-30, 1e-38, 1e-40, 1e-45])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_a_temperature_near_zero_is_greedy_and_its_log_probs_are_numbers(temperature: float, scale: float) -> None:
    rows = torch.tensor([[2.0, 1.0, -3.0], [1.0, 1.0, -1.0], [-5.0, -4.0, -6.0]]) * scale
    for top_k, top_p in ((0, 1.0), (2, 1.0), (0, 0.5)):
        logprobs = distribution(rows, torch.full((3,), temperature), torch.full((3,), top_k), torch.full((3,), top_p))
        assert not torch.isnan(logprobs).any()
        tokens, chosen = draw(logprobs, torch.full((3,), 0.3, dtype=torch.float64))
        assert tokens.tolist() == [0, 0, 1]
        assert torch.isfinite(chosen).all()
        assert chosen[0] == chosen[2] == 0.0


def test_a_cold_row_leaves_the_bits_of_the_others_alone() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    plain = distribution(logits, torch.ones(4), torch.zeros(4, dtype=torch.int64), torch.ones(4))
    beside = distribution(
        logits, torch.tensor([1.0, 1e-38, 1.0, 1.0]), torch.zeros(4, dtype=torch.int64), torch.ones(4)
    )
    assert torch.equal(plain[[0, 2, 3]], beside[[0, 2, 3]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_without_a_distribution_is_told_by_its_log_prob_and_the_others_are_drawn(bad: float) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] = bad
    logprobs = distribution(logits, torch.ones(3), torch.zeros(3, dtype=torch.int64), torch.ones(3))
    tokens, chosen = draw(logprobs, torch.full((3,), 0.5, dtype=torch.float64))
    assert torch.isfinite(chosen).tolist() == [True, False, True]
    assert ((tokens >= 0) & (tokens < 5)).all()


def test_top_k_keeps_the_most_likely_and_renormalises() -> None:
    expected = torch.cat((torch.softmax(LOGITS[0, :2], -1), torch.zeros(3)))
    torch.testing.assert_close(sampled_from(top_k=2), expected)


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass_and_renormalises() -> None:
    whole = torch.softmax(LOGITS[0], -1)
    mass = float(whole[0] + whole[1])
    for top_p, kept in ((mass - 0.01, 2), (mass + 0.01, 3), (1e-6, 1)):
        expected = torch.cat((torch.softmax(LOGITS[0, :kept], -1), torch.zeros(5 - kept)))
        torch.testing.assert_close(sampled_from(top_p=top_p), expected)


def test_min_p_leaves_out_what_is_less_likely_than_a_share_of_the_most_likely() -> None:
    whole = torch.softmax(LOGITS[0], -1)
    share = float(whole[2] / whole[0])
    for min_p, kept in ((share - 0.01, 3), (share + 0.01, 2), (1.0, 1)):
        expected = torch.cat((whole[:kept] / whole[:kept].sum(), torch.zeros(5 - kept)))
        torch.testing.assert_close(sampled_from(min_p=min_p), expected)


def test_what_could_have_been_drawn_beside_a_token_is_told_of_the_rows_that_are_asked_for() -> None:
    rows = LOGITS.repeat(3, 1)
    logprobs = distribution(rows, torch.ones(3), torch.tensor([2, 3, 0]), torch.ones(3))
    kept = kept_beside(logprobs, torch.tensor([1, 0, 4]), [0, 1])
    assert {row: ids.tolist() for row, ids in kept.items()} == {0: [0], 1: [1, 2]}
    assert kept_beside(logprobs, torch.tensor([1, 0, 4]), []) == {}


def test_top_p_looks_at_what_top_k_left() -> None:
    first = torch.softmax(LOGITS[0, :2], -1)[0]
    assert sampled_from(top_k=2, top_p=float(first) - 0.01).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_truncation_of_one_row_leaves_the_others_alone() -> None:
    logits = LOGITS.repeat(2, 1)
    rows = distribution(logits, torch.ones(2), torch.tensor([1, 0]), torch.ones(2)).exp()
    torch.testing.assert_close(rows[1], torch.softmax(LOGITS[0], -1))
    assert rows[0, 0] == 1.0


def test_greedy_breaks_ties_and_has_the_log_prob_of_a_certain_event() -> None:
    logprobs = distribution(torch.zeros(1, 4), torch.ones(1), torch.tensor([1]), torch.ones(1))
    tokens, chosen = draw(logprobs, torch.tensor([0.999], dtype=torch.float64))
    assert (tokens.item(), chosen.item()) == (0, 0.0)


def test_draws_follow_the_distribution_and_carry_its_log_probs() -> None:
    count = 100_000
    logprobs = torch.log_softmax(LOGITS, -1)
    evenly = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens, chosen = draw(logprobs.expand(count, -1), evenly)
    frequencies = torch.bincount(tokens, minlength=5) / count
    torch.testing.assert_close(frequencies, logprobs.exp()[0], atol=2 / count, rtol=0)
    torch.testing.assert_close(chosen, logprobs[0, tokens], rtol=0, atol=0)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-52])
def test_a_token_without_probability_is_never_drawn(uniform: float) -> None:
    logprobs = torch.log(torch.tensor([[0.0, 0.3, 0.7, 0.0]]))
    tokens, chosen = draw(logprobs, torch.tensor([uniform], dtype=torch.float64))
    assert tokens.item() in (1, 2)
    assert torch.isfinite(chosen).all()


def test_random_numbers_are_even_and_streams_do_not_repeat_each_other() -> None:
    keys = np.array([sample_key(seed, index) for seed in range(50) for index in range(20)], dtype=np.uint64)
    numbers = np.concatenate([uniforms(keys, np.full(len(keys), step, dtype=np.uint64)) for step in range(100)])
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert len(np.unique(numbers)) == len(numbers)
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_squared < 160, "99 degrees of freedom: beyond 160 once in ten thousand"


def test_a_number_depends_on_its_stream_and_place_alone() -> None:
    keys = np.array([sample_key(7, 0), sample_key(7, 1)], dtype=np.uint64)
    together = uniforms(keys, np.array([3, 4], dtype=np.uint64))
    assert together[1] == uniforms(keys[1:], np.array([4], dtype=np.uint64))[0]


@pytest.mark.parametrize("size", [5, CHUNK, 3 * CHUNK, 10 * CHUNK + 7])
def test_chunks_give_the_tokens_of_the_whole_row(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    logprobs = torch.log_softmax(4 * torch.randn(64, size, generator=generator), -1)
    logprobs[::3, : size // 2] = -torch.inf
    uniform = torch.rand(64, generator=generator, dtype=torch.float64)
    uniform[:3], uniform[3:6] = 0.0, 1.0 - 2.0**-52
    for found, expected in zip(draw_by_chunks(logprobs, uniform), draw(logprobs, uniform), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0 - 2.0**-52])
@pytest.mark.parametrize("only", [0, 1, CHUNK - 1, CHUNK, CHUNK + 3])
def test_chunks_never_give_a_token_without_probability(uniform: float, only: int) -> None:
    logprobs = torch.full((2, CHUNK + 4), -torch.inf)
    logprobs[0, only], logprobs[1] = 0.0, torch.nan
    tokens, chosen = draw_by_chunks(logprobs, torch.tensor([uniform] * 2, dtype=torch.float64))
    assert tokens[0] == only
    assert torch.isfinite(chosen).tolist() == [True, False]
    assert 0 <= int(tokens[1]) < CHUNK + 4
