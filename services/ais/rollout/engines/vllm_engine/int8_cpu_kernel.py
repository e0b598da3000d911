"""vLLM's INT8 kernel for CPUs, with the one repair that live weight updates need.

The oneDNN handler is made with the address of the weight's scales and reads them in every product. vLLM's layerwise
reload makes the handler with newly read scales, copies those into the tensor that served before, and frees them: the
next product multiplies with whatever lies there now, which is how a live update came to give NaN without an error.
"""

from __future__ import annotations

import torch
from vllm.model_executor.kernels.linear import _POSSIBLE_INT8_KERNELS
from vllm.model_executor.kernels.linear.scaled_mm.cpu import CPUInt8ScaledMMLinearKernel
from vllm.platforms import PlatformEnum


class ReloadableInt8Kernel(CPUInt8ScaledMMLinearKernel):
    """Keeps the scales its handler points at for as long as the handler lives."""

    def process_weights_for_onednn(self, layer: torch.nn.Module) -> None:
        super().process_weights_for_onednn(layer)
        weight_name, scale_name, *_ = self.layer_param_names
        self.dnnl_handler.weight_scale = getattr(layer, scale_name).data
        # vLLM leaves None where the packed weight was. Empty, as its BF16 layers are, it still tells its dtype.
        setattr(layer, weight_name, torch.nn.Parameter(torch.empty(0, dtype=torch.int8), requires_grad=False))


def register() -> None:
    """Makes vLLM choose this kernel in this process, before its own."""
    kernels = _POSSIBLE_INT8_KERNELS[PlatformEnum.CPU]
    if ReloadableInt8Kernel not in kernels:
        kernels.insert(0, ReloadableInt8Kernel)
