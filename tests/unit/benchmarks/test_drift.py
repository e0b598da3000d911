"""The terms of a gradient against enumeration, and their estimates against what they estimate."""

import pytest
import torch

from benchmarks.long_answers.drift import CAPS, SIGNAL, bias, token_terms, up_to

TOKENS, VOCABULARY = 5, 7


@pytest.fixture
def policies() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, TOKENS, VOCABULARY, generator=generator, dtype=torch.float64)
    proximal, behaviour = logits.log_softmax(-1)
    return proximal, behaviour


@pytest.mark.parametrize("name", CAPS)
def test_signal_and_drift_together_are_a_methods_score_over_every_token_that_can_be_drawn(
    name: str, policies: tuple[torch.Tensor, torch.Tensor]
) -> None:
    proximal, behaviour = policies
    cap = CAPS[name]
    expected = torch.zeros(TOKENS, VOCABULARY, dtype=torch.float64)
    of_terms = torch.zeros_like(expected)
    for token in range(VOCABULARY):
        ratio = (proximal - behaviour).exp()[:, token]
        weight = torch.ones_like(ratio) if cap is None else ratio.clamp(max=cap)
        score = -proximal.exp()
        score[:, token] += 1.0
        chance = behaviour.exp()[:, token, None]
        expected += chance * weight[:, None] * score
        terms = token_terms(proximal, behaviour, torch.full((TOKENS,), token))
        of_terms += chance * (terms[SIGNAL] + terms[name])
    torch.testing.assert_close(of_terms, expected)


def test_token_ratios_leave_no_drift_but_what_their_cap_makes(policies: tuple[torch.Tensor, torch.Tensor]) -> None:
    proximal, behaviour = policies
    near = (0.9 * behaviour.exp() + 0.1 * proximal.exp()).log()
    terms = token_terms(proximal, near, torch.zeros(TOKENS, dtype=torch.int64))
    assert float((proximal - near).exp().max()) < 8.0
    torch.testing.assert_close(terms["tis_8"], torch.zeros_like(terms["tis_8"]), atol=1e-12, rtol=0.0)
    assert float(terms["none"].norm()) > 0.01


def test_sums_up_to_a_length_are_those_of_the_tokens_that_an_answer_has() -> None:
    values = torch.arange(1.0, 6.0)[:, None]
    assert up_to({"one": values}, [2, 4, 16])["one"].flatten().tolist() == [3.0, 10.0, 15.0]


def test_products_of_means_are_estimated_without_the_noise_of_single_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    groups, size = 4000, 50
    signal = torch.zeros(size)
    signal[0] = 0.2
    drift = torch.zeros(size)
    drift[1] = 0.1
    noisy = [mean + torch.randn(groups, size, generator=generator) for mean in (signal, drift)]
    relative, cosine = bias(*noisy)
    assert relative.value == pytest.approx(0.5, abs=3 * relative.error)
    assert cosine.value == pytest.approx(0.2 / (0.2**2 + 0.1**2) ** 0.5, abs=3 * cosine.error)
    assert relative.error < 0.15
    assert float(noisy[1].mean(0).norm() / noisy[0].mean(0).norm()) > 0.55  # what plain means would say


def test_errors_are_of_estimates_that_leave_a_group_out() -> None:
    generator = torch.Generator().manual_seed(1)
    signal = 1.0 + torch.randn(6, 20, generator=generator)
    drift = 0.5 + torch.randn(6, 20, generator=generator)
    others = [[one for one in range(6) if one != left] for left in range(6)]
    apart = torch.tensor([[figure.value for figure in bias(signal[rest], drift[rest])] for rest in others])
    errors = (5 / 6 * (apart - apart.mean(0)).square().sum(0)).sqrt()
    assert [figure.error for figure in bias(signal, drift)] == pytest.approx(errors.tolist(), rel=1e-4)
