"""The tail index from binned weights, against the fit of a generalised Pareto to the weights themselves."""

import math
from statistics import fmean, pstdev, stdev

import pytest
import torch
from torch import Tensor

import ais_core
from ais_core import CorrectionSettings, SequenceBatch


def tail_index(log_weights: Tensor) -> float:
    batch = SequenceBatch.packed(log_weights.float(), torch.ones(len(log_weights), dtype=torch.int64))
    sums = ais_core.build(CorrectionSettings(method="none")).measure(batch)
    return ais_core.summarize(sums).sequence_tail_index


def fitted(log_weights: Tensor) -> float:
    """Zhang and Stephens (2009) on the largest min(N / 5, 3 sqrt(N)) weights, with the prior of PSIS (appendix C)."""
    ordered = log_weights.float().double().exp().sort().values
    size = math.ceil(min(len(ordered) / 5, 3 * math.sqrt(len(ordered))))
    x = ordered[-size:] - ordered[-size - 1]
    candidates = 30 + int(math.sqrt(size))
    theta = 1 / x[-1] + (1 - (candidates / (torch.arange(1, candidates + 1).double() - 0.5)).sqrt()) / (
        3 * x[int(size / 4 + 0.5) - 1]
    )
    k = torch.log1p(-theta[:, None] * x).mean(1)
    posterior = (size * ((-theta / k).log() - k - 1)).softmax(0)
    shape = float(torch.log1p(-(posterior @ theta) * x).mean())
    return (size * shape + 5) / (size + 10)


def uniform(seed: int, size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pareto(u: Tensor, k: float) -> Tensor:
    """log w, with w of a generalised Pareto's tail k above 1, whose scale is that of a small mismatch."""
    return torch.log1p(0.05 * (u ** (-k) - 1) / k)


@pytest.mark.parametrize(("size", "error"), [(256, 0.1), (1024, 0.075), (8192, 0.075)])
@pytest.mark.parametrize("k", [0.1, 0.3, 0.7, 1.2])
def test_the_binned_fit_is_that_of_the_weights_themselves(size: int, error: float, k: float) -> None:
    samples = [pareto(uniform(seed, size), k) for seed in range(40)]
    exact = [fitted(x) for x in samples]
    difference = [tail_index(x) - y for x, y in zip(samples, exact, strict=True)]
    assert abs(fmean(difference)) < 0.05
    assert pstdev(difference) < error < stdev(exact) + 0.01


@pytest.mark.parametrize("deviation", [0.02, 0.3, 1.0, 3.0])
def test_gaussian_log_weights_of_any_size_are_fitted_as_well(deviation: float) -> None:
    samples = [torch.special.ndtri(uniform(seed, 1024)) * deviation - deviation**2 / 2 for seed in range(20)]
    difference = [tail_index(x) - fitted(x) for x in samples]
    assert abs(fmean(difference)) < 0.05


@pytest.mark.parametrize("k", [0.3, 0.7, 1.2])
def test_many_weights_give_the_shape_of_their_tail(k: float) -> None:
    assert tail_index(pareto(uniform(1, 200_000), k)) == pytest.approx(k, abs=0.1)


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_the_shape_does_not_depend_on_the_scale_of_the_weights(shift: float) -> None:
    log_weights = pareto(uniform(3, 4096), 0.7)
    assert tail_index(log_weights + shift) == pytest.approx(tail_index(log_weights), abs=0.1)


def test_equal_weights_have_no_tail_and_few_weights_or_weights_far_from_1_no_estimate() -> None:
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert tail_index(torch.zeros(100)) == 0.0
    assert math.isnan(tail_index(noise[:24]))
    assert math.isfinite(tail_index(noise[:25]))
    assert math.isfinite(tail_index(noise * 20 - 10))
    assert math.isnan(tail_index(noise * 0.01 - 30))
    assert math.isnan(tail_index(noise * 0.01 + 20))
