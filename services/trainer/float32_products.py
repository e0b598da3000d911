"""BF16 matrix products on processors that have no BF16 units.

Without AVX-512, torch computes BF16 matrix products in a reference loop, about nine times slower than float32. A
product of two BF16 numbers is exact in float32, so widening the operands, multiplying in float32 and rounding the
result to BF16 gives what a BF16 unit with a float32 accumulator gives, up to the order of the additions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


def bf16_products(device: torch.device) -> AbstractContextManager[object]:
    """Context in which forward passes of BF16 models are fast on `device`. Needed around the forward pass only."""
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return Float32Products()
    return nullcontext()


class Float32Products(TorchFunctionMode):
    """Computes linear layers and attention of BF16 tensors with float32 kernels, rounding their results to BF16."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and args[0].dtype == torch.bfloat16:
            product = _Linear.apply(args[0], args[1])  # type: ignore[no-untyped-call]
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return product if bias is None else product + bias
        if func is F.scaled_dot_product_attention and args[0].dtype == torch.bfloat16:
            widened = (argument.float() for argument in args[:3])
            return func(*widened, *args[3:], **kwargs).to(torch.bfloat16)
        return func(*args, **kwargs)


class _Linear(torch.autograd.Function):
    """x [..., in] BF16 and weight [out, in] BF16 to [..., out] BF16."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        product = x.float().flatten(0, -2) @ weight.float().t()
        return product.to(x.dtype).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].float().flatten(0, -2)
        grad_x = (gradient @ weight.float()).to(x.dtype).view(x.shape)
        grad_weight = (gradient.t() @ x.float().flatten(0, -2)).to(weight.dtype)
        return grad_x, grad_weight
