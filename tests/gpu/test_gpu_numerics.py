"""What a GPU rounds is what a processor rounds, bit for bit: replicas and trainer may compute on either."""

from __future__ import annotations

import itertools

import pytest
import torch

from ais_core.numerics import (
    FORMATS,
    encode_activation,
    encode_weight,
    quantize_activation,
    quantize_weight,
    straight_through_activation,
    straight_through_weight,
)

GRANULARITIES = ("tensor", "channel", "block")


def weight_of(rows: int = 160, columns: int = 288) -> torch.Tensor:
    """Rows of very different sizes, one of zeros."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight *= torch.linspace(1e-3, 30.0, rows).bfloat16()[:, None]
    weight[3] = 0.0
    return weight


def tokens_of() -> torch.Tensor:
    tokens = torch.randn(37, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    tokens[0], tokens[1, 7] = 0.0, 1e4
    return tokens


@pytest.mark.parametrize(("name", "granularity"), list(itertools.product(FORMATS, GRANULARITIES)))
def test_a_weight_has_the_same_codes_scales_and_values(name: str, granularity: str, device: torch.device) -> None:
    weight = weight_of()
    expected, found = (encode_weight(one, name, granularity) for one in (weight, weight.to(device)))
    assert torch.equal(found.codes.cpu().view(torch.uint8), expected.codes.view(torch.uint8))
    assert torch.equal(found.scales.cpu(), expected.scales)
    assert torch.equal(found.dequantize().cpu(), expected.dequantize())
    rounded = quantize_weight(weight.to(device), name, granularity)
    assert torch.equal(rounded.cpu(), quantize_weight(weight, name, granularity))


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "int8"])
def test_scales_of_least_squares_are_as_good(name: str, device: torch.device) -> None:
    """Sums of squares are added in another order, so between two scales of nearly the same error either may win."""
    weight = weight_of().float()
    expected, found = (quantize_weight(one, name, scales="least_squares") for one in (weight, weight.to(device)))
    errors = ((rounded.cpu() - weight).square().sum(1) for rounded in (found, expected))
    torch.testing.assert_close(next(errors), next(errors), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", FORMATS)
def test_activations_have_the_same_codes_scales_and_values(name: str, device: torch.device) -> None:
    tokens = tokens_of()
    expected, found = (encode_activation(one, name) for one in (tokens, tokens.to(device)))
    assert torch.equal(found.codes.cpu().view(torch.uint8), expected.codes.view(torch.uint8))
    assert torch.equal(found.scales.cpu(), expected.scales)
    rounded = quantize_activation(tokens.to(device), name, torch.float32)
    assert torch.equal(rounded.cpu(), quantize_activation(tokens, name, torch.float32))


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "int8"])
def test_straight_through_rounds_alike_and_passes_the_gradient(name: str, device: torch.device) -> None:
    weight = weight_of().to(device).requires_grad_()
    tokens = tokens_of().to(device).requires_grad_()
    rounded_weight = straight_through_weight(weight, name)
    rounded_tokens = straight_through_activation(tokens, name, torch.float32)
    assert torch.equal(rounded_weight.detach().cpu(), quantize_weight(weight_of(), name))
    assert torch.equal(rounded_tokens.detach().cpu(), quantize_activation(tokens_of(), name, torch.float32))
    (rounded_weight.sum() + rounded_tokens.sum()).backward()
    assert weight.grad is not None
    assert tokens.grad is not None
    assert bool((weight.grad == 1).all())
    assert bool((tokens.grad == 1).all())
