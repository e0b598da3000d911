"""Rounds, and lets gradients pass: the forward value is the rounded one, the backward pass takes it for the identity.

The straight-through estimator (Bengio, Leonard, Courville 2013, arXiv 1308.3432). A trainer that rounds its weights and
activations this way computes the policy that a low-precision engine samples from, and can be trained through it:

    grad J(Q(theta)) ~ (grad J)(Q(theta)),      taking dQ/dtheta for 1

Within the format's range the identity is right on average over a step of the grid. Values that scales of least squares
clip are passed too: their scale moves with them.
"""

# ruff: noqa: A002 (`format` is what everybody calls a number format)

from typing import Any

import torch
from torch import Tensor

from ais_core.numerics.formats import Format
from ais_core.numerics.quantizers import Granularity, Scales, quantize_activation, quantize_weight


def straight_through_weight(
    weight: Tensor,
    format: Format,
    granularity: Granularity = "channel",
    block_size: int = 128,
    scales: Scales = "maximum",
) -> Tensor:
    """`quantize_weight` of a weight (out, in), float32, with the gradient of the weight itself.

    Values, arguments and errors are those of `quantize_weight`, bit for bit.
    """
    return _pass_through(weight, quantize_weight(weight, format, granularity, block_size, scales=scales))


def straight_through_activation(x: Tensor, format: Format, dtype: torch.dtype | None = None) -> Tensor:
    """`quantize_activation` of activations (..., features), in `dtype`, with the gradient of `x` itself."""
    return _pass_through(x, quantize_activation(x.detach(), format, dtype))


def _pass_through(x: Tensor, rounded: Tensor) -> Tensor:
    passed: Tensor = _StraightThrough.apply(x, rounded)  # type: ignore[no-untyped-call]
    return passed


class _StraightThrough(torch.autograd.Function):
    """Value of the second argument, gradient to the first. `x + (rounded - x).detach()` would round once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(ctx.dtype), None
