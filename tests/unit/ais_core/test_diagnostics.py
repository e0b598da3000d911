"""Every metric against plain float64, and against closed forms where the log-ratio is Gaussian."""

import math

import pytest
import torch

import ais_core
from ais_core import CorrectionSettings, Diagnostics, SequenceBatch


def measure(
    log_ratio: torch.Tensor, length: int, version_lag: torch.Tensor | None = None, **settings: object
) -> Diagnostics:
    lengths = torch.full((log_ratio.numel() // length,), length)
    batch = SequenceBatch.packed(log_ratio, lengths, version_lag)
    return ais_core.summarize(ais_core.build(CorrectionSettings(**settings)).measure(batch))


def gaussian(count: int, deviation: float) -> torch.Tensor:
    """log r ~ N(-s^2/2, s^2): the ratio has mean 1 under the sampler, as every ratio of two policies has."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, generator=generator) * deviation - deviation**2 / 2


@pytest.mark.parametrize("mismatch", [1e-4, 0.01, 0.3, 1.5])
def test_every_metric_equals_its_float64_definition(mismatch: float) -> None:
    logs = torch.randn(64 * 20, generator=torch.Generator().manual_seed(3)) * mismatch
    got = measure(logs, 20, method="tis", level="sequence")
    x = logs.double()
    r, w = x.exp(), x.view(64, 20).sum(1).exp()
    t = w.clamp(max=2.0)
    expected = {
        "mean_abs_log_ratio": x.abs().mean(),
        "k1": -x.mean(),
        "k2": (x**2 / 2).mean(),
        "k3": (torch.expm1(x) - x).mean(),
        "chi_square": (r - 1).square().mean(),
        "perplexity_ratio": (-x.mean()).exp(),
        "token_cv": r.std(correction=0) / r.mean(),
        "token_ess_ratio": r.sum() ** 2 / (r.numel() * (r**2).sum()),
        "sequence_mean_log_ratio": w.log().mean(),
        "sequence_log_ratio_sd": w.log().std(correction=0),
        "sequence_cv": w.std(correction=0) / w.mean(),
        "sequence_ess_ratio": w.sum() ** 2 / (w.numel() * (w**2).sum()),
        "weight_mean": t.mean(),
        "weight_cv": t.std(correction=0) / t.mean(),
        "weight_ess_ratio": t.sum() ** 2 / (t.numel() * (t**2).sum()),
        "raw_weight_cv": w.std(correction=0) / w.mean(),
        "truncated_share": (w >= 2.0).double().mean(),
    }
    for name, value in expected.items():
        # Weights near 1 leave a CV of 1e-4 only as many digits as float32 log-ratios have.
        assert getattr(got, name) == pytest.approx(float(value), rel=2e-5, abs=1e-9), name


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_quantiles_and_the_maximum_are_right_to_the_width_of_a_bin(share: float) -> None:
    logs = gaussian(100_000, 0.1)
    got = measure(logs, 100)
    value = {0.5: got.median_abs_log_ratio, 0.99: got.p99_abs_log_ratio}[share]
    assert value == pytest.approx(float(logs.abs().quantile(share)), rel=0.05)
    assert float(logs.abs().max()) <= got.max_abs_log_ratio <= 1.26 * float(logs.abs().max())


@pytest.mark.parametrize("deviation", [0.05, 0.3, 0.6])
def test_gaussian_log_ratios_give_the_closed_forms(deviation: float) -> None:
    got = measure(gaussian(400_000, deviation), 1000)
    variance = deviation**2
    assert got.token_ess_ratio == pytest.approx(math.exp(-variance), rel=0.02)
    assert got.token_cv == pytest.approx(math.sqrt(math.expm1(variance)), rel=0.03)
    assert got.chi_square == pytest.approx(math.expm1(variance), rel=0.05)
    assert got.k1 == pytest.approx(variance / 2, rel=0.05, abs=2e-4)
    assert got.k3 == pytest.approx(variance / 2, rel=0.03)
    assert got.mean_abs_log_ratio == pytest.approx(deviation * math.sqrt(2 / math.pi), rel=0.05)


def test_the_effective_sample_ratio_is_one_over_one_plus_cv_squared() -> None:
    got = measure(gaussian(1000, 1.0), 10)
    assert got.token_ess_ratio == pytest.approx(1 / (1 + got.token_cv**2))
    assert got.sequence_ess_ratio == pytest.approx(1 / (1 + got.sequence_cv**2))


@pytest.mark.parametrize("k", [0.3, 0.7, 1.2])
def test_the_tail_index_finds_the_shape_of_a_pareto_tail(k: float) -> None:
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_weights = (-k * uniform.log()).float()
    assert measure(log_weights, 1).sequence_tail_index == pytest.approx(k, rel=0.1)


def test_lags_are_told_apart_and_what_is_beyond_the_last_is_kept_together() -> None:
    logs = torch.tensor([0.1, -0.1, 0.3, 0.5, 0.7])
    got = measure(logs, 5, version_lag=torch.tensor([0, 0, 2, 8, 40]))
    assert [(row.lag, row.tokens) for row in got.by_lag] == [(0, 2), (2, 1), (8, 2)]
    assert [row.mean_abs_log_ratio for row in got.by_lag] == pytest.approx([0.1, 0.3, 0.6])
    assert measure(logs, 5).by_lag == ()
