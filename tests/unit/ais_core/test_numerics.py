"""The quantisers against torch's own casts and against brute force."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ais_core.errors import SettingError, ShapeError
from ais_core.numerics import FORMATS, encode_activation, encode_weight, quantize_activation, quantize_weight

SCALED = [name for name, number in FORMATS.items() if number.scaled]
FLOAT8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
E2M1_GRID = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@pytest.mark.parametrize("name", FLOAT8)
def test_rounding_is_that_of_torch_casts_at_every_value_tie_and_neighbour(name: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(FLOAT8[name]).float()
    grid = codes[codes.isfinite()].unique()
    ties = (grid[1:] + grid[:-1]) / 2
    points = torch.cat([grid, ties])
    points = torch.cat([points, points.nextafter(torch.tensor(torch.inf)), points.nextafter(torch.tensor(-torch.inf))])
    points = torch.cat([points, torch.randn(100_000) * torch.logspace(-8, 2, 100_000)])
    points = points.clamp(-FORMATS[name].largest, FORMATS[name].largest)
    assert torch.equal(FORMATS[name].round(points), points.to(FLOAT8[name]).float())


def test_e2m1_rounds_to_the_nearest_grid_value_with_ties_to_the_even_mantissa() -> None:
    x = torch.arange(-6 * 64, 6 * 64 + 1) / 64
    distance = (x.abs()[:, None] - E2M1_GRID).abs()
    distance[:, 1::2] += 1e-6  # odd positions of the grid have an odd mantissa and lose ties
    assert torch.equal(FORMATS["e2m1"].round(x), E2M1_GRID[distance.argmin(1)] * x.sign())


@pytest.mark.parametrize(("name", "granularity"), list(itertools.product(FORMATS, ("tensor", "channel", "block"))))
def test_a_quantised_weight_is_what_its_codes_and_scales_stand_for(name: str, granularity: str) -> None:
    weight = torch.randn(70, 50, generator=torch.Generator().manual_seed(0))
    coded = encode_weight(weight, name, granularity, block_size=32)
    assert coded.codes.dtype == FORMATS[name].storage
    assert torch.equal(coded.dequantize(), quantize_weight(weight, name, granularity, block_size=32))
    expected = {"tensor": (1, 1), "channel": (70, 1), "block": (3, 2)}[granularity] if FORMATS[name].scaled else (1, 1)
    assert coded.scales.shape == expected


@pytest.mark.parametrize("name", FLOAT8)
def test_blocks_are_quantised_as_if_each_were_a_tensor(name: str) -> None:
    weight = torch.randn(70, 50)
    whole = quantize_weight(weight, name, "block", block_size=32)
    for row, column in itertools.product(range(0, 70, 32), range(0, 50, 32)):
        block = (slice(row, row + 32), slice(column, column + 32))
        assert torch.equal(whole[block], quantize_weight(weight[block], name, "tensor"))


@pytest.mark.parametrize(("name", "granularity"), list(itertools.product(SCALED, ("tensor", "channel", "block"))))
def test_scales_of_least_squares_leave_no_group_a_larger_error_than_the_maximum(name: str, granularity: str) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    error = {}
    for scales in ("maximum", "least_squares"):
        coded = encode_weight(weight, name, granularity, block_size=32, scales=scales)
        rounded = quantize_weight(weight, name, granularity, block_size=32, scales=scales)
        assert torch.equal(coded.dequantize(), rounded)
        square = (rounded - weight).square()
        groups = {
            "tensor": square.sum().reshape(1),
            "channel": square.sum(1),
            "block": square.unfold(0, 32, 32).unfold(1, 32, 32).sum((-1, -2)).flatten(),
        }
        error[scales] = groups[granularity]
    assert (error["least_squares"] <= error["maximum"]).all()
    if name == "e2m1":  # the coarser the grid, the more there is to gain
        assert error["least_squares"].sum() < 0.95 * error["maximum"].sum()


def test_scales_of_least_squares_are_the_best_of_those_tried() -> None:
    weight = torch.randn(1, 48, generator=torch.Generator().manual_seed(3))
    scales = weight.abs().max() / 6 * torch.tensor([2.0 ** (-step / 12) for step in range(16)])
    grid = torch.cat([-E2M1_GRID, E2M1_GRID])
    nearest = [grid[(weight / scale - grid[:, None]).abs().argmin(0)] * scale for scale in scales]
    best = min(nearest, key=lambda rounded: float((rounded - weight).square().sum()))
    torch.testing.assert_close(quantize_weight(weight, "e2m1", scales="least_squares")[0], best)


@pytest.mark.parametrize("name", FLOAT8)
def test_activations_equal_the_textbook_formula(name: str) -> None:
    x = torch.randn(4, 7, 33)
    scale = x.abs().amax(-1, keepdim=True) / torch.finfo(FLOAT8[name]).max
    assert torch.equal(quantize_activation(x, name), (x / scale).to(FLOAT8[name]).float() * scale)


@pytest.mark.parametrize("name", SCALED)
@given(exponent=st.floats(-30, 30))
def test_rounding_is_idempotent_and_scale_follows_the_data(name: str, exponent: float) -> None:
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)) * 2.0**exponent
    once = quantize_activation(x, name)
    torch.testing.assert_close(quantize_activation(once, name), once, rtol=1e-6, atol=0)
    torch.testing.assert_close(once.abs().amax(-1), x.abs().amax(-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_zeros_and_the_dtype_is_kept_or_the_one_asked_for(name: str) -> None:
    x = torch.zeros(3, 8, dtype=torch.bfloat16)
    assert torch.equal(quantize_activation(x, name), x)
    assert quantize_activation(x, name, torch.float32).dtype == torch.float32
    assert torch.equal(encode_activation(x, name).dequantize(), torch.zeros(3, 8))
    for scales in ("maximum", "least_squares"):
        assert torch.equal(quantize_weight(x, name, "tensor", dtype=torch.bfloat16, scales=scales), x)


def test_unknown_formats_granularities_and_shapes_are_refused_by_name() -> None:
    with pytest.raises(SettingError, match="e4m3"):
        quantize_activation(torch.ones(2), "fp8")
    with pytest.raises(SettingError, match="granularity"):
        quantize_weight(torch.ones(2, 2), "e4m3", "row")
    with pytest.raises(SettingError, match="least_squares"):
        quantize_weight(torch.ones(2, 2), "e4m3", scales="mean")
    with pytest.raises(ShapeError, match="out, in"):
        quantize_weight(torch.ones(2), "e4m3")
