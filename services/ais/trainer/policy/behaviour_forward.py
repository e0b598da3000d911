"""Computes the sampling policy in the trainer: rounds weights and activations as the rollout engine does.

Gradients go straight through the rounding, so the trainer can improve the quantised policy itself instead of applying
the gradient of the BF16 policy to it. Products of rounded operands are made in float32, where they are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ais.contracts.sampling import Precision
from ais.runtime.process import UnavailableError
from ais_core.numerics.straight_through import straight_through_activation, straight_through_weight


def check_imitable(model: torch.nn.Module, setting: str) -> None:
    """Raises UnavailableError, naming `setting`, for a mixture of experts.

    Replicas round its experts and leave its router in BF16; here its experts are no linear layers, and its router is.
    """
    if any(weight.dim() == 3 and "experts" in name for name, weight in model.named_parameters()):
        raise UnavailableError(
            f"{setting} computes the sampling policy in the trainer, which cannot round a mixture of experts as "
            "replicas do: switch it off"
        )


class BehaviourProducts(TorchFunctionMode):
    """Computes linear layers of BF16 tensors as an engine of that precision does: on its grids, with BF16 results.

    It applies to every linear layer called inside. Call outside what stays BF16 in the engine: the head, unless
    `precision.head`.
    """

    def __init__(self, precision: Precision) -> None:
        """`precision.weights` is not bf16."""
        super().__init__()
        self._precision = precision

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear or args[0].dtype != torch.bfloat16:
            return func(*args, **kwargs)
        precision = self._precision
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        inputs = args[0].float()
        if precision.activations != "bf16":
            inputs = straight_through_activation(inputs, precision.activations)
        weight = straight_through_weight(args[1], precision.weights, precision.granularity, scales=precision.scales)
        return F.linear(inputs, weight, None if bias is None else bias.float()).to(torch.bfloat16)
