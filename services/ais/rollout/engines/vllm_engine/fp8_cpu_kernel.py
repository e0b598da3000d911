"""An FP8 W8A8 kernel for CPUs without FP8 arithmetic: rounded operands kept in BF16, one BF16 product, then the scales.

vLLM's own goes through `torch._scaled_mm`, which such a CPU computes slower than a BF16 product by orders of magnitude.
Every E4M3 value is a BF16 value, so a BF16 product of the rounded operands, accumulated in float32, adds up the very
same numbers. vLLM quantises the weights; activations are quantised here, to the same bits.

What differs from vLLM's kernel: the order of additions, and one more rounding to BF16, because the product comes out of
oneDNN in BF16 before it is scaled. FP8 rounding of the next layer's inputs makes of such a last-place difference one of
a whole FP8 step where a value lies near a boundary. So single log-probs differ between the two kernels, while the size
of the mismatch with BF16 is the same. The price is memory: two bytes a weight, like BF16.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from vllm import _custom_ops as ops
from vllm.config import get_current_vllm_config
from vllm.model_executor.kernels.linear import _POSSIBLE_FP8_KERNELS
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import (
    FP8ScaledMMLinearKernel,
    FP8ScaledMMLinearLayerConfig,
)
from vllm.model_executor.layers.quantization.utils.quant_utils import kFp8DynamicTokenSym, kFp8StaticChannelSym
from vllm.model_executor.utils import replace_parameter
from vllm.platforms import PlatformEnum

from ais.rollout.engines.vllm_engine.arguments import CPU_FP8_KERNEL
from ais_core.numerics import FORMATS

BF16_COPY = "bf16_copy"
"""The value of the setting that asks for this kernel."""

E4M3 = FORMATS["e4m3"]
SMALLEST_SCALE = 1 / (512 * E4M3.largest)
"""Least scale, that of a token of zeros; vLLM's value."""


class Bf16CopyFp8Kernel(FP8ScaledMMLinearKernel):
    """Weights per output channel, activations per token, both E4M3."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:  # noqa: ARG003
        if get_current_vllm_config().additional_config.get(CPU_FP8_KERNEL) != BF16_COPY:
            return False, f"additional_config[{CPU_FP8_KERNEL!r}] does not ask for it."
        return True, None

    @classmethod
    def can_implement(cls, config: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        if (config.weight_quant_key, config.activation_quant_key) != (kFp8StaticChannelSym, kFp8DynamicTokenSym):
            return False, "requires weight scales per output channel and dynamic activation scales per token."
        if config.out_dtype != torch.bfloat16:
            return False, "requires BF16 results."
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        weight_name, scale_name, _, _ = self.layer_param_names
        weight, scale = getattr(layer, weight_name), getattr(layer, scale_name)
        # oneDNN packs the weight into memory of its own: nothing of it needs to stay on the layer.
        self._product = product_with(weight)
        replace_parameter(layer, weight_name, weight.new_empty(0))
        replace_parameter(layer, scale_name, scale.reshape(1, -1).float())

    def apply_weights(self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        codes, token_scale = rounded_tokens(x.reshape(-1, x.shape[-1]))
        product = self._product(codes)
        scales = token_scale * getattr(layer, self.layer_param_names[1])
        y = torch.mul(product, scales, out=product) if bias is None else product * scales + bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def apply_scaled_mm(self, **_: object) -> Tensor:
        raise NotImplementedError("apply_weights does all of it")


def product_with(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Multiplies codes (tokens, features) by the E4M3 `weight` (features, outputs).

    oneDNN multiplies BF16 only where the processor has AVX-512. Elsewhere a float32 copy does: the products of E4M3
    numbers are exact in it, at twice the memory.
    """
    try:
        packed = ops.create_onednn_mm(weight.to(torch.bfloat16), 32)
    except RuntimeError:
        copy = weight.float()
        return lambda codes: codes.float() @ copy
    return lambda codes: ops.onednn_mm(packed, codes, None)


def rounded_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """The E4M3 codes of activations (tokens, features) as BF16 numbers, and their float32 scales (tokens, 1).

    To the bit what vLLM's `QuantFP8` gives, without the cast to FP8 and back, which is slow on a CPU.
    """
    scale = (x.abs().amax(-1, keepdim=True).float() / E4M3.largest).clamp_(min=SMALLEST_SCALE)
    return E4M3.round(x * scale.reciprocal()).to(torch.bfloat16), scale


def register() -> None:
    """Offers this kernel to vLLM in this process, before its own."""
    kernels = _POSSIBLE_FP8_KERNELS[PlatformEnum.CPU]
    if Bf16CopyFp8Kernel not in kernels:
        kernels.insert(0, Bf16CopyFp8Kernel)
