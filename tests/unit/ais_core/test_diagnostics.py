"""Every metric against plain float64, and against closed forms where the log-ratio is Gaussian."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
    y = x.view(64, 20).sum(1)
    r, w = x.exp(), y.exp()
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
        "sequence_mean_log_ratio": y.mean(),
        "sequence_log_ratio_sd": y.std(correction=0),
        "sequence_mean_abs_log_ratio": y.abs().mean(),
        "sequence_k1": -y.mean(),
        "sequence_k2": (y**2 / 2).mean(),
        "sequence_k3": (torch.expm1(y) - y).mean(),
        "sequence_chi_square": (w - 1).square().mean(),
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
    sequences = logs.view(-1, 100).sum(1)
    value = {0.5: got.median_abs_log_ratio, 0.99: got.p99_abs_log_ratio}[share]
    assert value == pytest.approx(float(logs.abs().quantile(share)), rel=0.05)
    assert float(logs.abs().max()) <= got.max_abs_log_ratio <= 1.26 * float(logs.abs().max())
    value = {0.5: got.sequence_median_abs_log_ratio, 0.99: got.sequence_p99_abs_log_ratio}[share]
    assert value == pytest.approx(float(sequences.abs().quantile(share)), rel=0.1)
    assert float(sequences.abs().max()) <= got.sequence_max_abs_log_ratio <= 1.26 * float(sequences.abs().max())


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


@given(shift=st.floats(-60.0, 60.0), deviation=st.floats(0.0, 10.0), length=st.sampled_from([1, 4, 16]))
def test_raw_weights_of_any_size_give_an_effective_sample_ratio_in_0_1_and_a_finite_cv(
    shift: float, deviation: float, length: int
) -> None:
    logs = torch.randn(64, generator=torch.Generator().manual_seed(0)) * deviation + shift
    got = measure(logs, length)
    for ratio in (got.token_ess_ratio, got.sequence_ess_ratio):
        assert 0.0 < ratio <= 1.0
    for variation in (got.token_cv, got.sequence_cv, got.raw_weight_cv):
        assert math.isfinite(variation)
    if deviation == 0.0:
        # Equal ratios carry a sample alike, unless they are beyond the limit: then any one may carry it alone.
        effective = 1.0 if abs(shift) > 20.0 else 64.0
        assert got.token_ess_ratio == pytest.approx(effective / 64, rel=1e-5)
        assert got.token_cv == pytest.approx(
            math.sqrt(64 / effective - 1), rel=1e-5, abs=5e-3
        )  # the root of a rounding


def test_lags_are_told_apart_and_what_is_beyond_the_last_is_kept_together() -> None:
    logs = torch.tensor([0.1, -0.1, 0.3, 0.5, 0.7])
    got = measure(logs, 5, version_lag=torch.tensor([0, 0, 2, 8, 40]))
    assert [(row.lag, row.tokens) for row in got.by_lag] == [(0, 2), (2, 1), (8, 2)]
    assert [row.mean_abs_log_ratio for row in got.by_lag] == pytest.approx([0.1, 0.3, 0.6])
    assert measure(logs, 5).by_lag == ()


@pytest.mark.parametrize("lags", [torch.arange(60) // 20, torch.full((60,), 3)], ids=["several", "one"])
def test_every_metric_of_a_lag_equals_its_float64_definition(lags: torch.Tensor) -> None:
    logs = gaussian(60, 0.4)
    got = {row.lag: row for row in measure(logs, 20, version_lag=lags).by_lag}
    assert sorted(got) == lags.unique().tolist()
    for lag, row in got.items():
        x = logs[lags == lag].double()
        r = x.exp()
        assert row.tokens == len(x)
        assert row.mean_abs_log_ratio == pytest.approx(float(x.abs().mean()), rel=1e-5)
        assert row.k1 == pytest.approx(float(-x.mean()), rel=1e-5)
        assert row.k3 == pytest.approx(float((r - 1 - x).mean()), rel=1e-5)
        assert row.ess_ratio == pytest.approx(float(r.sum() ** 2 / (len(r) * r.square().sum())), rel=1e-5)
