"""Products of BF16 numbers made by float32 kernels, on processors.

A product of two BF16 numbers is exact in float32, so widening the operands, multiplying in float32 and rounding the
result to BF16 gives what a BF16 unit with a float32 accumulator gives, up to the order of the additions.

- Without AVX-512, torch computes BF16 matrix products in a reference loop, about nine times slower than float32.
- Over short sequences torch's fused attention spends most of its time on overhead: two plain batched products take a
  sixth of it (35 positions, forward and backward). They also keep the attention weights in float32, as the torch engine
  does. So does torch's attention in float32, which is taken for masks that are added to the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

DENSE_POSITIONS = 128
"""Longest sequences whose attention weights are written out: their memory grows with the square of the length."""


def bf16_products(device: torch.device) -> AbstractContextManager[object]:
    """Context in which forward passes of BF16 models are fast on `device`. Needed around the forward pass only."""
    if device.type != "cpu":
        return nullcontext()
    return Float32Products(linear=torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"))


class Float32Products(TorchFunctionMode):
    """Computes attention, and linear layers where asked to, of BF16 tensors with float32 kernels; results are BF16."""

    def __init__(self, linear: bool = True) -> None:
        super().__init__()
        self._linear = linear

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._linear and func is F.linear and args[0].dtype == torch.bfloat16:
            product = _Linear.apply(args[0], args[1])  # type: ignore[no-untyped-call]
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return product if bias is None else product + bias
        if func is F.scaled_dot_product_attention and args[0].dtype == torch.bfloat16:
            query, key, value = (argument.float() for argument in args[:3])
            mask = kwargs.get("attn_mask")
            if mask is not None and mask.is_floating_point():
                kwargs = kwargs | {"attn_mask": mask.float()}
            causal_only = kwargs.get("is_causal") and mask is None and not kwargs.get("dropout_p")
            if len(args) == 3 and causal_only and args[0].shape[2] <= DENSE_POSITIONS:
                return _causal_attention(query, key, value, kwargs.get("scale")).to(torch.bfloat16)
            if self._linear or (mask is not None and mask.is_floating_point()):
                return func(query, key, value, *args[3:], **kwargs).to(torch.bfloat16)
        return func(*args, **kwargs)


def _causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """softmax(scale q k^T) v over earlier positions. [B, H, L, D], [B, K, L, D] twice, K a divisor of H."""
    batch, heads, length, size = query.shape
    lines = batch * key.shape[1]
    group = heads // key.shape[1]
    hidden_future = query.new_full((length, length), -torch.inf).triu_(1).repeat(group, 1)
    scores = torch.baddbmm(
        hidden_future.expand(lines, -1, -1),
        query.reshape(lines, group * length, size),
        key.reshape(lines, length, size).transpose(1, 2),
        alpha=size**-0.5 if scale is None else scale,
    )
    attended = torch.bmm(torch.softmax(scores, -1), value.reshape(lines, length, size))
    return attended.view(batch, heads, length, size)


class _Linear(torch.autograd.Function):
    """x [..., in] BF16 and weight [out, in] BF16 to [..., out] BF16."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        product = x.float().flatten(0, -2) @ weight.float().t()
        return product.to(x.dtype).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].float().flatten(0, -2)
        grad_x = (gradient @ weight.float()).to(x.dtype).view(x.shape)
        if not ctx.needs_input_grad[1]:  # a frozen weight
            return grad_x, None
        return grad_x, (gradient.t() @ x.float().flatten(0, -2)).to(weight.dtype)
