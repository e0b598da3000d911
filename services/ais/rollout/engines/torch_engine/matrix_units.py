"""Linear layers on a GPU's matrix units: the same numbers as `linear.RoundedLinear`, up to the order of additions.

BF16 on every GPU; E4M3 weights and activations from compute capability 8.9 (Ada, Hopper); INT8 from 7.5. Everything
else, and every shape that the units do not take, is left to `RoundedLinear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ais.contracts.sampling import Precision
from ais_core.numerics import Quantized, encode_activation, encode_weight

FP8_CAPABILITY = (8, 9)
ALIGNMENT = 16
"""Inputs and outputs of an FP8 or INT8 product are multiples of it."""
LEAST_INT8_ROWS = 17
"""PyTorch's INT8 product takes no fewer rows."""


@dataclass(frozen=True)
class Bf16Linear:
    """BF16 operands, accumulated in float32."""

    weight: Tensor
    """bf16 [outputs, inputs]."""
    bias: Tensor | None
    """bf16 [outputs]."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """bf16 [n, inputs] to bf16 [n, outputs]."""
        return F.linear(inputs, self.weight, self.bias)


@dataclass(frozen=True)
class Fp8Linear:
    """E4M3 codes with a scale for each token and each output, applied to the float32 sums."""

    codes: Tensor
    """float8_e4m3fn [outputs, inputs]."""
    scales: Tensor
    """float32 [1, outputs]."""
    bias: Tensor | None
    """bf16 [outputs]."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """bf16 [n, inputs] to bf16 [n, outputs]."""
        rounded = encode_activation(inputs, "e4m3")
        return self.product(rounded.codes, rounded.scales)

    def product(self, codes: Tensor, scales: Tensor) -> Tensor:
        """bf16 [n, outputs] of codes [n, inputs] and scales float32 [n, 1]."""
        return torch._scaled_mm(
            codes,
            self.codes.t(),
            scale_a=scales,
            scale_b=self.scales,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=False,
        )


@dataclass(frozen=True)
class Int8Linear:
    """INT8 codes with a scale for each token and each output, applied to the int32 sums."""

    codes: Tensor
    """int8 [outputs, inputs]."""
    scales: Tensor
    """float32 [1, outputs]."""
    bias: Tensor | None
    """float32 [outputs], rounded to BF16."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """bf16 [n, inputs] to bf16 [n, outputs]."""
        rounded = encode_activation(inputs, "int8")
        products = self.sums(rounded.codes).float() * rounded.scales * self.scales
        return (products if self.bias is None else products + self.bias).bfloat16()

    def sums(self, codes: Tensor) -> Tensor:
        """int32 [n, outputs]: products of codes [n, inputs], before their scales."""
        rows = codes.shape[0]
        if rows < LEAST_INT8_ROWS:
            codes = F.pad(codes, (0, 0, 0, LEAST_INT8_ROWS - rows))
        return torch._int_mm(codes, self.codes.t())[:rows]


def matrix_unit(
    weights: Sequence[Tensor | Quantized], biases: list[Tensor], precision: Precision
) -> Bf16Linear | Fp8Linear | Int8Linear | None:
    """The layer of `rounded_linear` where the weights' device has matrix units for it, else None."""
    device = _tensor(weights[0]).device
    if device.type != "cuda":
        return None
    bias = torch.cat([bias.bfloat16() for bias in biases]) if biases else None
    formats = (precision.weights, precision.activations)
    if precision.weights == "bf16":
        return Bf16Linear(torch.cat([_tensor(weight).bfloat16() for weight in weights]), bias)
    aligned = all(size % ALIGNMENT == 0 for weight in weights for size in _tensor(weight).shape)
    if precision.granularity == "block" or not aligned:
        return None
    if formats == ("e4m3", "e4m3") and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY:
        return Fp8Linear(*joined(weights, precision), bias)
    if formats == ("int8", "int8"):
        return Int8Linear(*joined(weights, precision), None if bias is None else bias.float())
    return None


def _tensor(weight: Tensor | Quantized) -> Tensor:
    return weight.codes if isinstance(weight, Quantized) else weight


def joined(weights: Sequence[Tensor | Quantized], precision: Precision) -> tuple[Tensor, Tensor]:
    """Codes [outputs, inputs], one below the other, and their scales float32 [1, outputs]."""
    encoded = [
        weight
        if isinstance(weight, Quantized)
        else encode_weight(weight.bfloat16(), precision.weights, precision.granularity, scales=precision.scales)
        for weight in weights
    ]
    storage = encoded[0].codes.dtype
    codes = torch.cat([one.codes.view(torch.uint8) for one in encoded]).view(storage)
    scales = torch.cat([one.scales.expand(one.codes.shape[0], 1) for one in encoded])
    return codes, scales.t().contiguous()
