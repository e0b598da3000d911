"""Quantises and dequantises weights (static scales) and activations (one scale a token, from the token itself).

A group of values shares a scale, and each value becomes `round(x / scale) * scale`. A group is a weight's whole tensor,
one output channel (row), or a square block; for an activation it is the last dimension.

The scale is `absolute maximum / largest value of the format`, so that nothing is clipped; or, for weights that ask for
`least_squares`, the one of a few smaller ones that leaves the least squared error: it clips the outliers of a group to
round the others more finely. A group's error is never larger than with the maximum.
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
Scales = Literal["maximum", "least_squares"]

SMALLEST_MAXIMUM = 2.0**-100
"""The absolute maximum taken for a group of zeros, so that its scale is a normal float32 and zeros stay zeros."""

SHRINKAGES = tuple(2.0 ** (-step / 12) for step in range(16))
"""Scales tried by `least_squares`, as factors of that of the maximum: down to 0.42 in steps of 6%."""


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
    weight: Tensor,
    format: Format,
    granularity: Granularity = "channel",
    block_size: int = 128,
    scales: Scales = "maximum",
) -> Quantized:
    """Codes and scales of a weight.

    Args:
        weight: (out, in), any float dtype; detached.
        granularity: `tensor` one scale, `channel` one a row (output channel), `block` one a square of block_size rows
            and columns (smaller at the edges).
        scales: `maximum` clips nothing, `least_squares` has the least squared error.
    Raises:
        SettingError: an unknown format, granularity or kind of scales.
        ShapeError: a weight that is not two-dimensional, or is empty.
    """
    number = number_format(format)
    values = weight.detach().float()
    chosen, block = _weight_scales(values, number, granularity, block_size, scales)
    return Quantized(number.code(_on_grid(values, chosen, block, number)), chosen, format, block)


def quantize_weight(
    weight: Tensor,
    format: Format,
    granularity: Granularity = "channel",
    block_size: int = 128,
    dtype: torch.dtype = torch.float32,
    scales: Scales = "maximum",
) -> Tensor:
    """The rounded values of a weight (out, in), dequantised to `dtype`. Arguments and errors as `encode_weight`."""
    number = number_format(format)
    values = weight.detach().float()
    if not number.scaled:
        return values.to(number.storage).to(dtype)
    chosen, block = _weight_scales(values, number, granularity, block_size, scales)
    return _on_grid(values, chosen, block, number).mul_(_spread(chosen, values.shape, block)).to(dtype)


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


def quantize_scaled(x: Tensor, format: Format, scales: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The rounded values of `x`, in `dtype` (default: that of `x`), with given scales, float32 and broadcastable to it.
    What exceeds the format is clipped."""
    number = number_format(format)
    return _on_grid(x.float(), scales, None, number).mul_(scales).to(x.dtype if dtype is None else dtype)


def _row_scales(values: Tensor, number: NumberFormat) -> Tensor:
    return _scale_of(values.abs().amax(-1, keepdim=True), number)


def _scale_of(maximum: Tensor, number: NumberFormat) -> Tensor:
    """The scale that takes a group's absolute maximum to the largest value."""
    maximum = maximum.clamp(min=SMALLEST_MAXIMUM)
    # A GPU divides by a Python number by multiplying with its reciprocal, whose last bit may differ; a CPU divides,
    # and a tensor made for that alone would take a fifth of the time of rounding an activation.
    return maximum.div_(maximum.new_full((), number.largest) if maximum.is_cuda else number.largest)


def _on_grid(values: Tensor, scales: Tensor, block_size: int | None, number: NumberFormat) -> Tensor:
    scaled = values / _spread(scales, values.shape, block_size)
    # Nothing but the rounding of the division exceeds the format unless scales were shrunk.
    return number.round(scaled.clamp_(-number.largest, number.largest) if number.scaled else scaled)


def _weight_scales(
    values: Tensor, number: NumberFormat, granularity: Granularity, block_size: int, kind: Scales
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
    widest = _scale_of(maximum, number)
    block = block_size if granularity == "block" else None
    match kind:
        case "maximum":
            return widest, block
        case "least_squares":
            return _least_squares(values, widest, block, number), block
        case _:
            raise SettingError(f"unknown kind of scales {kind!r}; known: maximum, least_squares")


def _least_squares(values: Tensor, widest: Tensor, block_size: int | None, number: NumberFormat) -> Tensor:
    """The scale with the least squared error of each group, from `widest` shrunk by each of SHRINKAGES."""
    best, least = widest, torch.full_like(widest, torch.inf)
    for shrinkage in SHRINKAGES:
        scales = (widest * shrinkage).clamp_(min=SMALLEST_MAXIMUM / number.largest)
        rounded = _on_grid(values, scales, block_size, number).mul_(_spread(scales, values.shape, block_size))
        error = _group_sums(rounded.sub_(values).square_(), widest.shape, block_size)
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)
    return best


def _group_sums(values: Tensor, groups: torch.Size, block_size: int | None) -> Tensor:
    """Sums of values (out, in) over each group, in the shape of the scales."""
    if block_size is not None:
        return F.avg_pool2d(values[None], block_size, ceil_mode=True, divisor_override=1)[0]
    return values.sum(1, keepdim=True) if groups[0] > 1 else values.sum().reshape(1, 1)


def _spread(scales: Tensor, shape: torch.Size, block_size: int | None) -> Tensor:
    """Scales broadcastable to `shape`."""
    if block_size is None:
        return scales
    rows = scales.repeat_interleave(block_size, 0)[: shape[0]]
    return rows.repeat_interleave(block_size, 1)[:, : shape[1]]
