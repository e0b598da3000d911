"""The arithmetic of a linear layer: operands rounded to their format, products accumulated in float32, result in BF16.

A product of two BF16, FP8 or INT8 values is exact in float32, so rounding the operands and multiplying in float32 gives
what an FP8 matrix unit with FP32 accumulators gives, up to the order of additions. BF16 is the same with the BF16 grid.
A GPU whose matrix units take the format computes with the codes themselves (`matrix_units.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ais.contracts.sampling import Precision
from ais.rollout.engines.torch_engine.matrix_units import matrix_unit
from ais_core.numerics import Format, Quantized, quantize_activation, quantize_weight


class Linear(Protocol):
    """y = x W^T + b."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """bf16 [n, inputs] to bf16 [n, outputs]; to float32 from a `Float32Head`."""
        ...


@dataclass(frozen=True)
class RoundedLinear:
    """Any format on any device: rounded operands, multiplied in float32."""

    weight: Tensor
    """float32 [outputs, inputs], rounded."""
    bias: Tensor | None
    """float32 [outputs], rounded to BF16."""
    activations: Format | None
    """Format inputs are rounded to, per token; None leaves them in BF16."""

    def __call__(self, inputs: Tensor) -> Tensor:
        rounded = quantize_activation(inputs, self.activations, torch.float32) if self.activations else inputs.float()
        return self.product(rounded)

    def product(self, rounded: Tensor) -> Tensor:
        """bf16 [n, outputs] of inputs that are rounded, float32 [n, inputs]."""
        return F.linear(rounded, self.weight, self.bias).bfloat16()


@dataclass(frozen=True)
class Float32Head:
    """The output head in float32: operands are BF16 numbers, results are not rounded."""

    weight: Tensor
    """float32 [vocabulary, hidden], rounded to BF16."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """bf16 [n, hidden] to float32 [n, vocabulary]."""
        return F.linear(inputs.float(), self.weight)


def rounded_linear(weights: Sequence[Tensor | Quantized], biases: list[Tensor], precision: Precision) -> Linear:
    """One layer from several that share their input (queries, keys and values; gate and up), outputs in that order.

    Each weight keeps scales of its own, as if it had stayed alone. The layer is on the weights' device.
    """
    return matrix_unit(weights, biases, precision) or RoundedLinear(
        weight=torch.cat([round_weight(weight, precision) for weight in weights]),
        bias=torch.cat([bias.bfloat16().float() for bias in biases]) if biases else None,
        activations=None if "bf16" in (precision.weights, precision.activations) else precision.activations,
    )


def round_weight(weight: Tensor | Quantized, precision: Precision) -> Tensor:
    """The BF16 weight on the grid of its format, as float32; one that came quantised is there already."""
    if isinstance(weight, Quantized):
        return weight.dequantize()
    master = weight.bfloat16().float()
    if precision.weights == "bf16":
        return master
    return quantize_weight(master, precision.weights, precision.granularity, scales=precision.scales)
