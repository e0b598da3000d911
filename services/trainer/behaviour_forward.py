"""The policy that samples, computed by the trainer: weights and activations rounded as the rollout engine rounds them.

Gradients pass the rounding by straight-through, so that the trainer can improve the quantised policy itself instead of
applying to it the gradient of the BF16 one. Products of rounded operands are made in float32, where they are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ais_core.numerics.straight_through import straight_through_activation, straight_through_weight
from services.contracts.sampling import Precision


def rounded_weights(part: nn.Module, head: nn.Module, precision: Precision) -> dict[str, torch.Tensor]:
    """Every parameter of a part of the model by name, as the engine computes with it; gradients reach the parameters.

    Linear layers are float32 on the grid of their format; the rest, and the head unless `precision.head`, is BF16.
    """
    weights = {name: weight.to(torch.bfloat16) for name, weight in part.named_parameters()}
    if precision.weights == "bf16":
        return weights
    for name, module in part.named_modules():
        if isinstance(module, nn.Linear) and (precision.head or module is not head):
            key = f"{name}.weight" if name else "weight"  # the part may be the head itself
            weights[key] = straight_through_weight(
                weights[key], precision.weights, precision.granularity, scales=precision.scales
            )
    return weights


class BehaviourProducts(TorchFunctionMode):
    """Computes linear layers whose weight is float32 as the engine does, from BF16 inputs to BF16 outputs."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self._activations = precision.activations

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear or args[0].dtype != torch.bfloat16 or args[1].dtype != torch.float32:
            return func(*args, **kwargs)
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        inputs = args[0].float()
        if self._activations != "bf16":
            inputs = straight_through_activation(inputs, self._activations)
        return F.linear(inputs, args[1], None if bias is None else bias.float()).to(torch.bfloat16)
