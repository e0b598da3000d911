"""Quantise and dequantise weights (static scales) and activations (a scale per token, taken from the token itself).

A group of values shares the scale `absolute maximum / largest value of the format`, and each value becomes
`round(x / scale) * scale`. A group is a weight's whole tensor, one output channel (row), or a square block; for an
activation it is the last dimension.
"""

# ruff: noqa: A002 (`format` is what everybody calls a number format)

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ais_core.errors import SettingError, ShapeError
from ais_core.numerics.formats import Format, NumberFormat, number_format

Granularity = Literal["tensor", "channel", "block"]

SMALLEST_MAXIMUM = 2.0**-100
"""The absolute maximum taken for a group of zeros, so that its scale is a normal float32 and zeros stay zeros."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """Codes and scales of a tensor: what a low-precision kernel reads."""

    codes: Tensor
    """The tensor's shape, in the format's storage dtype."""
    scales: Tensor
    """float32, broadcastable to the tensor (for blocks: one per block, `(ceil(rows/b), ceil(columns/b))`)."""
    format: Format
    block_size: int | None = None
    """The side of a block, when scales are per block."""

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values the codes stand for, in `dtype`."""
        values = number_format(self.format).value(self.codes)
        return (values * _spread(self.scales, self.codes.shape, self.block_size)).to(dtype)


def encode_weight(
    weight: Tensor, format: Format, granularity: Granularity = "channel", block_size: int = 128
) -> Quantized:
    """Codes and scales of a weight.

    Args:
        weight: (out, in), any float dtype; detached.
        granularity: `tensor` one scale, `channel` one a row (output channel), `block` one a square of block_size rows
            and columns (smaller at the edges).
    Raises:
        SettingError: an unknown format or granularity.
        ShapeError: a weight that is not two-dimensional, or is empty.
    """
    number = number_format(format)
    values = weight.detach().float()
    scales, block = _weight_scales(values, number, granularity, block_size)
    return Quantized(number.code(number.round(values / _spread(scales, values.shape, block))), scales, format, block)


def quantize_weight(
    weight: Tensor,
    format: Format,
    granularity: Granularity = "channel",
    block_size: int = 128,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The rounded values of a weight (out, in), dequantised to `dtype`. Arguments and errors as `encode_weight`."""
    number = number_format(format)
    values = weight.detach().float()
    if not number.scaled:
        return values.to(number.storage).to(dtype)
    scales, block = _weight_scales(values, number, granularity, block_size)
    scales = _spread(scales, values.shape, block)
    return number.round(values / scales).mul_(scales).to(dtype)


def encode_activation(x: Tensor, format: Format) -> Quantized:
    """Codes and per-token scales of activations (..., features); scales are (..., 1)."""
    number = number_format(format)
    values = x.detach().float()
    scales = _row_scales(values, number) if number.scaled else torch.ones_like(values[..., :1])
    return Quantized(number.code(number.round(values / scales)), scales, format)


def quantize_activation(x: Tensor, format: Format, dtype: torch.dtype | None = None) -> Tensor:
    """The rounded values of activations (..., features), in `dtype` (default: that of `x`), with one scale per token.

    Meant for a decoding loop under `no_grad`: a dozen elementwise operations, no Python per row.
    """
    number = number_format(format)
    dtype = x.dtype if dtype is None else dtype
    if not number.scaled:
        return x.to(number.storage).to(dtype)
    values = x.float()
    scales = _row_scales(values, number)
    return number.round(values / scales).mul_(scales).to(dtype)


def _row_scales(values: Tensor, number: NumberFormat) -> Tensor:
    return values.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST_MAXIMUM).div_(number.largest)


def _weight_scales(
    values: Tensor, number: NumberFormat, granularity: Granularity, block_size: int
) -> tuple[Tensor, int | None]:
    if values.ndim != 2 or values.numel() == 0:
        raise ShapeError(f"a weight is (out, in) and not empty, got shape {tuple(values.shape)}")
    if not number.scaled:
        return values.new_ones(1, 1), None
    match granularity:
        case "tensor":
            maximum = values.abs().amax().reshape(1, 1)
        case "channel":
            maximum = values.abs().amax(1, keepdim=True)
        case "block":
            if block_size < 1:
                raise SettingError(f"block_size must be 1 or more, got {block_size}")
            maximum = F.max_pool2d(values.abs()[None], block_size, ceil_mode=True)[0]
        case _:
            raise SettingError(f"unknown granularity {granularity!r}; known: tensor, channel, block")
    scales = maximum.clamp(min=SMALLEST_MAXIMUM).div_(number.largest)
    return scales, block_size if granularity == "block" else None


def _spread(scales: Tensor, shape: torch.Size, block_size: int | None) -> Tensor:
    """Scales broadcastable to `shape`."""
    if block_size is None:
        return scales
    rows = scales.repeat_interleave(block_size, 0)[: shape[0]]
    return rows.repeat_interleave(block_size, 1)[:, : shape[1]]
