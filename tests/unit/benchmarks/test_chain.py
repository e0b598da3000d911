"""The chain's gradients against what autograd, and answers drawn one by one, say."""

import pytest
import torch

from benchmarks.long_answers.chain import ALIVE, CONTEXTS, Chain, draw, exact, make, of_token_weights, parameters
from benchmarks.long_answers.gradients import qualities

KINDS = pytest.mark.parametrize("adverse", [False, True])


@KINDS
@pytest.mark.parametrize("tokens", [16, 16384])
def test_the_policies_are_as_far_apart_as_asked_and_half_of_the_answers_live(tokens: int, adverse: bool) -> None:
    chain = make(tokens, 0.02, seed=1, adverse=adverse)
    assert chain.mean_abs_log_ratio == pytest.approx(0.02, rel=1e-6)
    assert float(chain.survival(chain.trained) ** tokens) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("tokens", [16, 4096])
def test_the_exact_gradient_is_that_of_the_reward(tokens: int) -> None:
    chain = make(tokens, 0.02, seed=0)
    logits = chain.trained.log().requires_grad_()
    reward = (1 - (logits.softmax(-1)[ALIVE] * chain.hazard).sum() / CONTEXTS / tokens) ** tokens
    torch.testing.assert_close(exact(chain), parameters(torch.autograd.grad(reward, logits)[0]))


@pytest.mark.parametrize("tokens", [16, 4096])
@pytest.mark.parametrize("centred", [False, True])
def test_without_mismatch_an_uncorrected_gradient_is_exact(tokens: int, centred: bool) -> None:
    chain = make(tokens, 0.02, seed=0)
    same = Chain(tokens, chain.trained, chain.trained, chain.hazard)
    weights = torch.ones_like(chain.trained)
    torch.testing.assert_close(of_token_weights(same, weights, centred), exact(same), rtol=1e-6, atol=1e-9)


@KINDS
@pytest.mark.parametrize("tokens", [16, 40])
def test_expected_gradients_are_the_means_of_drawn_answers(tokens: int, adverse: bool) -> None:
    chain = make(tokens, 0.3, seed=2, adverse=adverse)
    drawn = draw(chain, 10_000, torch.Generator().manual_seed(0))
    assert bool((drawn.counts.flatten(1).sum(1) == tokens).all())
    assert float(drawn.rewards.mean()) == pytest.approx(float(chain.survival(chain.sampled) ** tokens), abs=0.02)
    advantages = (drawn.rewards - chain.survival(chain.sampled) ** tokens)[:, None]
    ratio = chain.log_ratio.exp()
    for weights in (torch.ones_like(ratio), ratio.clamp(max=2.0)):
        for centred, scores in ((False, drawn.scores), (True, drawn.centred_scores)):
            parts = scores(chain, weights) * advantages
            error = parts.mean(0) - of_token_weights(chain, weights, centred)
            # As far off as the mean of so many draws is, over all parameters together.
            assert float(error.square().sum() / (parts.var(0).sum() / len(parts))) < 2.0


def test_uncorrected_bias_grows_with_length_and_that_of_ratios_and_centred_scores_does_not() -> None:
    short, long = (
        {one.method: one.bias for one in qualities(make(tokens, 0.02, seed=0), 2048, 0)} for tokens in (64, 4096)
    )
    assert long["none"] > 20 * short["none"]
    assert long["ais"] > 10 * short["ais"]
    for method in ("tis_token", "centred"):
        assert long[method] < 1.2 * short[method] < 0.1
    assert long["handover"] < 0.5 * long["ais"]
