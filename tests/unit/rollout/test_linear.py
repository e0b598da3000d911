"""The rounding of linear layers is real: operands lie on the grid of their format."""

from __future__ import annotations

import pytest
import torch

from ais.contracts.sampling import Precision
from ais.rollout.engines.torch_engine.linear import Float32Head, round_weight, rounded_linear

STORAGE = {"e4m3": (torch.float8_e4m3fn, 448.0), "e5m2": (torch.float8_e5m2, 57344.0)}


def scales(weight: torch.Tensor, granularity: str, largest: float) -> torch.Tensor:
    """Scale of each value, by a road of its own: absolute maximum of what shares it over the format's largest value."""
    absolute = weight.abs()
    if granularity == "tensor":
        return (absolute.max() / largest).expand_as(weight)
    if granularity == "channel":
        return (absolute.amax(1, keepdim=True) / largest).expand_as(weight)
    spread = torch.empty_like(weight)
    for row in range(0, weight.shape[0], 128):
        for column in range(0, weight.shape[1], 128):
            block = (slice(row, row + 128), slice(column, column + 128))
            spread[block] = absolute[block].max() / largest
    return spread


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_weights_are_float8_values_times_their_scale(name: str, granularity: str) -> None:
    dtype, largest = STORAGE[name]
    weight = torch.randn(200, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight *= torch.linspace(0.1, 3.0, 200).bfloat16()[:, None]
    rounded = round_weight(weight, Precision.model_validate({"weights": name, "granularity": granularity}))
    scale = scales(weight.float(), granularity, largest)
    expected = (weight.float() / scale).to(dtype).float() * scale
    torch.testing.assert_close(rounded, expected, rtol=1e-6, atol=0)


def test_bf16_leaves_bf16_weights_alone_and_rounds_others() -> None:
    weight = torch.randn(8, 8)
    assert torch.equal(round_weight(weight, Precision(weights="bf16")), weight.bfloat16().float())


def test_layers_that_share_their_input_keep_scales_of_their_own() -> None:
    small, large = torch.full((4, 16), 0.013), torch.full((4, 16), 100.0)
    both = rounded_linear([small, large], [], Precision(granularity="tensor")).weight
    torch.testing.assert_close(both[:4], small, rtol=0.01, atol=0)


def test_inputs_are_rounded_for_each_token_and_products_added_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(5, 64, generator=generator), torch.randn(3, 64, generator=generator).bfloat16()
    inputs *= torch.tensor([[1.0], [1000.0], [0.001]]).bfloat16()
    layer = rounded_linear([weight], [torch.arange(5.0)], Precision())
    scale = inputs.float().abs().amax(1, keepdim=True) / 448.0
    on_grid = (inputs.float() / scale).to(torch.float8_e4m3fn).double() * scale.double()
    expected = on_grid @ layer.weight.double().T + torch.arange(5.0).double()
    torch.testing.assert_close(layer(inputs).double(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("precision", [Precision(weights="bf16"), Precision(activations="bf16")], ids=str)
def test_inputs_stay_bf16_where_nothing_else_is_asked(precision: Precision) -> None:
    assert rounded_linear([torch.ones(2, 2)], [], precision).activations is None


def test_a_float32_head_rounds_no_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(size, 64, generator=generator).bfloat16() for size in (50, 3))
    exact = inputs.double() @ weight.double().T
    logits, rounded = (
        Float32Head(weight.float())(inputs),
        rounded_linear([weight], [], Precision(weights="bf16"))(inputs),
    )
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)
    assert (rounded.double() - exact).abs().max() > 100 * (logits.double() - exact).abs().max()
