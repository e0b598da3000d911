"""Straight-through rounding: values of the quantisers, gradients of the identity."""

import itertools

import pytest
import torch

from ais_core.numerics import (
    FORMATS,
    quantize_activation,
    quantize_weight,
    straight_through_activation,
    straight_through_weight,
)


@pytest.mark.parametrize(("name", "scales"), list(itertools.product(FORMATS, ("maximum", "least_squares"))))
def test_a_weight_has_the_quantisers_values_and_takes_the_gradient_unchanged(name: str, scales: str) -> None:
    weight = torch.randn(20, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rounded = straight_through_weight(weight, name, "channel", scales=scales)
    assert torch.equal(rounded, quantize_weight(weight, name, "channel", scales=scales))
    gradient = torch.randn(20, 12)
    rounded.backward(gradient)
    assert torch.equal(weight.grad, gradient)


@pytest.mark.parametrize("name", FORMATS)
def test_an_activation_has_the_quantisers_values_and_its_gradient_keeps_the_inputs_dtype(name: str) -> None:
    x = torch.randn(3, 5, 16, dtype=torch.bfloat16, requires_grad=True)
    rounded = straight_through_activation(x, name, torch.float32)
    assert torch.equal(rounded, quantize_activation(x, name, torch.float32))
    rounded.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_the_gradient_is_that_of_the_function_at_the_rounded_weight() -> None:
    weight = torch.randn(6, 8, requires_grad=True)
    x = torch.randn(4, 8)
    torch.tanh(x @ straight_through_weight(weight, "e2m1").t()).sum().backward()
    rounded = quantize_weight(weight, "e2m1").requires_grad_()
    torch.tanh(x @ rounded.t()).sum().backward()
    assert torch.equal(weight.grad, rounded.grad)
