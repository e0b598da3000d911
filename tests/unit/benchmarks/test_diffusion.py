"""The study of a diffusion policy: what it computes is what it says, and its document is made of its records."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

import ais_core
from ais.collector.prompts.prompts import Split
from ais.collector.tasks.sort import SortTask
from ais.comparison.settings import FORMATS
from ais_core.diffusion import estimate, one_step_views
from benchmarks.diffusion.network import Network, Shape, new_masters
from benchmarks.diffusion.sampling import Sampler
from benchmarks.diffusion.training import Cell, Run

ROOT = Path(__file__).parents[3]
DIGITS = 4
TOKENIZER = Tokenizer.from_file(str(ROOT / "examples" / "sort16" / "model" / "tokenizer.json"))
SHAPE = Shape(TOKENIZER.get_vocab_size() + 1, positions=2 * DIGITS + 2, width=16, layers=1, heads=2, inner=16)
MASTERS = new_masters(SHAPE, seed=0)
PROMPTS = [SortTask(DIGITS, 0, Split.TRAIN).prompt(ordinal) for ordinal in range(4)]
SAMPLER = Sampler(TOKENIZER, unmasking_steps=2)


@pytest.mark.parametrize(("form", "same"), [("bf16", True), ("e5m2", False)])
def test_the_policy_that_samples_is_the_trained_one_but_for_its_format(form: str, same: bool) -> None:
    trained, served = Network.trained(SHAPE, MASTERS), Network.served(SHAPE, MASTERS, FORMATS[form])
    samples = SAMPLER.sample(served, PROMPTS, 2, seed=1)
    views = one_step_views(samples.sequences, SHAPE.mask_token, seed=1)
    ratios = ais_core.log_ratio(estimate(trained, views).logprobs, estimate(served, views).logprobs)
    assert bool((ratios == 0).all()) is same


def test_the_path_of_the_policy_that_sampled_is_what_it_recorded() -> None:
    served = Network.served(SHAPE, MASTERS, FORMATS["e5m2"])
    samples = SAMPLER.sample(served, PROMPTS, 2, seed=1)
    torch.testing.assert_close(SAMPLER.path_of(served, samples), samples.path)
    assert not bool((samples.sequences.tokens == SHAPE.mask_token).any())
    assert all(row.bincount().tolist() == [2, 2] for row in samples.steps)


def test_padding_is_not_attended_to() -> None:
    network = Network.trained(SHAPE, MASTERS)
    answered = SAMPLER.answered(PROMPTS)
    shorter = answered.tokens[:, :-2]
    present = torch.ones_like(answered.tokens).bool()
    present[:, -2:] = False
    alone = network(shorter, torch.ones_like(shorter).bool())
    torch.testing.assert_close(network(answered.tokens, present)[:, :-2], alone, rtol=0.0, atol=0.05)


def test_gradients_reach_every_master() -> None:
    masters = {name: weight.clone().requires_grad_() for name, weight in MASTERS.items()}
    answered = SAMPLER.answered(PROMPTS)
    logs = Network.trained(SHAPE, masters)(answered.tokens, answered.present).log_softmax(-1)
    gradients = torch.autograd.grad(logs[..., :-1].sum(), list(masters.values()))
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)


def test_a_cell_is_the_same_when_it_is_trained_again() -> None:
    cell = Cell(
        method="ais", format="e5m2", seed=1, start="", digits=DIGITS, unmasking_steps=2, steps=2, groups=2, draws=2,
        prompt_probability=0.15, evaluate_every=2, held_out=8,
    )  # fmt: skip
    told: list[str] = []
    first, second = (Run(cell, SHAPE, MASTERS, SAMPLER).train(told.append) for _ in range(2))
    assert len(told) == 2
    assert {**first, "processor_seconds": 0} == {**second, "processor_seconds": 0}
    assert len(first["evaluations"]) == 2
    assert all(one > 0 for one in first["steps"]["mismatch"])
