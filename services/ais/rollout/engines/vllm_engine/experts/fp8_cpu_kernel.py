"""FP8 W8A8 experts on CPUs, as our kernel for linear layers has it (`vllm_engine.fp8_cpu_kernel`).

vLLM has none: its methods for experts call operations that its CPU build lacks. Weights are E4M3 with a scale for each
output channel of each expert, rounded when they are loaded; activations are E4M3 with a scale for each token, at the
entry of an expert and again between its two products. Each product adds up in float32 and comes out in BF16. The router
stays in BF16, and what the chosen experts give is weighted and added up in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.activation import SiluAndMul, SwigluOAIAndMul
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
from vllm.model_executor.layers.quantization.online.base import _ONLINE_MOE_METHODS
from vllm.model_executor.layers.quantization.online.moe_base import OnlineMoEMethodBase
from vllm.model_executor.layers.quantization.utils.quant_utils import kFp8StaticChannelSym
from vllm.model_executor.utils import replace_parameter
from vllm.platforms import current_platform

from ais.rollout.engines.vllm_engine.fp8_cpu_kernel import product_with, rounded_tokens
from ais_core.numerics import encode_weight

_LOADED = "_already_called_process_weights_after_loading"
"""vLLM's mark on a layer whose weights are in place; a reload takes it off."""


@dataclass(frozen=True)
class _Product:
    """One of an expert's two."""

    multiply: Callable[[Tensor], Tensor]
    scales: Tensor
    """float32 [1, out]."""

    @classmethod
    def of(cls, weight: Tensor) -> _Product:
        """`weight`: BF16 [out, in]."""
        encoded = encode_weight(weight, "e4m3", "channel")
        return cls(product_with(encoded.codes.t()), encoded.scales.reshape(1, -1))

    def __call__(self, codes: Tensor, token_scales: Tensor, bias: Tensor | None) -> Tensor:
        """BF16 [tokens, out] of E4M3 codes [tokens, in] and their scales [tokens, 1]."""
        scaled = self.multiply(codes) * (token_scales * self.scales)
        return (scaled if bias is None else scaled + bias).to(torch.bfloat16)


class Bf16CopyFp8Experts(OnlineMoEMethodBase):
    """Loads BF16 weights, rounds them, and keeps the rounded ones in BF16 in oneDNN's memory."""

    def __init__(self, *, moe: FusedMoEConfig) -> None:
        """Raises ValueError for a mixture that is computed otherwise than these products know."""
        super().__init__(moe)
        self._activate = _activation(moe.activation)
        if moe.moe_parallel_config.use_ep:
            raise ValueError("experts in FP8 on a CPU are not spread over ranks: expected all of them on each")
        self._experts: list[tuple[_Product, _Product]] = []

    def process_weights_after_loading(self, layer: Any) -> None:
        if getattr(layer, _LOADED, False):
            return
        self._zero_padding(layer)
        weights = zip(layer.w13_weight, layer.w2_weight, strict=True)
        self._experts = [(_Product.of(w13), _Product.of(w2)) for w13, w2 in weights]
        for name in ("w13_weight", "w2_weight"):  # oneDNN has the numbers; the dtype says what they are
            replace_parameter(layer, name, torch.empty(0, dtype=torch.float8_e4m3fn))
        setattr(layer, _LOADED, True)

    def get_fused_moe_quant_config(self, layer: torch.nn.Module) -> None:  # noqa: ARG002
        return None  # for vLLM's own kernels

    def apply(
        self, layer: Any, x: Tensor, topk_weights: Tensor, topk_ids: Tensor, *_shared_experts: object, **_named: object
    ) -> Tensor:
        """BF16 [tokens, hidden] of `x`, by each token's experts [tokens, k] and their weights. (Shared experts are
        computed by the caller.)"""
        if layer.apply_router_weight_on_input:
            raise NotImplementedError("weights of the router are applied to what experts give, not to their input")
        codes, scales = rounded_tokens(x)
        total = torch.zeros(x.shape, dtype=torch.float32)
        for number in sorted(set(topk_ids.flatten().tolist())):
            rows, places = (topk_ids == number).nonzero(as_tuple=True)
            first, second = self._experts[number]
            hidden = self._activate(first(codes[rows], scales[rows], _bias(layer, "w13_bias", number)))
            given = second(*rounded_tokens(hidden), _bias(layer, "w2_bias", number))
            total.index_add_(0, rows, given.float() * topk_weights[rows, places, None].float())
        return total.to(x.dtype)


def _bias(layer: Any, name: str, expert: int) -> Tensor | None:
    biases = getattr(layer, name, None)
    return None if biases is None else biases[expert]


def _activation(activation: MoEActivation) -> Callable[[Tensor], Tensor]:
    """In BF16, as the trainer computes it. Raises ValueError."""
    function: Callable[[Tensor], Tensor]
    if activation == MoEActivation.SILU:
        function = SiluAndMul.forward_native
        return function
    if activation == MoEActivation.SWIGLUOAI:
        function = SwigluOAIAndMul().forward_native
        return function
    raise ValueError(f"experts in FP8 on a CPU: expected activation silu or swigluoai, got {activation.value}")


def register() -> None:
    """On a CPU, vLLM computes experts in FP8 by channel with this from now on, in this process."""
    if current_platform.is_cpu():
        _ONLINE_MOE_METHODS[kFp8StaticChannelSym] = Bf16CopyFp8Experts
