"""What vLLM 0.32 leaves out when the weights of a mixture of experts change in a live engine.

A layerwise reload puts empty tensors in the place of a layer's, has what is loaded pass by their `weight_loader`, and
then brings it into the serving tensors. Two things do not go that way:

- GPT-OSS copies whole stacks of experts, their biases and the attention's sinks into its tensors directly: into the
  empty ones, so that nothing is loaded, and the old experts serve on without a word. (FP8 begins with empty tensors at
  the first load too.) Experts that come one by one do pass by the loader, so they are handed to it so.
- The CPU's kernel packs BF16 experts when it is made, at the first load alone: new ones would lie unpacked where it
  expects packed ones. So it is made anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.gpt_oss import GptOssModel
from vllm.platforms import current_platform

STACK = re.compile(r"(?P<experts>.*\.mlp\.experts)\.(?P<part>w13_weight|w2_weight|w13_bias|w2_bias)")
"""What vLLM calls a tensor of all experts of a GPT-OSS layer."""
_load_whole = GptOssModel._load_weights_other


def one_by_one(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """GPT-OSS' weights, each stack of experts as its experts: by the names that vLLM has for these."""
    for name, weight in weights:
        if found := STACK.fullmatch(name):
            for number, expert in enumerate(weight):
                yield f"{found['experts']}.{number}.{found['part']}", expert
        else:
            yield name, weight


def make_kernels_anew(model: nn.Module) -> None:
    """Before a reload, on a CPU. A GPU's graphs hold the kernels, so they stay; that was not run on one."""
    if not current_platform.is_cpu():
        return
    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        if isinstance(method, UnquantizedFusedMoEMethod):
            method.moe_kernel = None  # it is made by the next load


def register() -> None:
    """Lets GPT-OSS load so in this process, from the first load on."""
    GptOssModel._load_weights_other = _load_by_loaders


def _load_by_loaders(
    self: Any,
    ep_rank_end: int,
    ep_rank_start: int,
    heads_per_rank: int,
    head_start: int,
    weights: Iterable[tuple[str, Tensor]],
    stacked_params_mapping: list[tuple[str, str, str]],
) -> set[str]:
    """In the place of `GptOssModel._load_weights_other`, with its arguments."""
    parameters: Mapping[str, nn.Parameter] = dict(self.named_parameters())
    sinks: set[str] = set()

    def left() -> Iterator[tuple[str, Tensor]]:
        for name, weight in one_by_one(weights):
            if name.endswith(".sinks") and name in parameters:
                parameter = parameters[name]
                load = getattr(parameter, "weight_loader", default_weight_loader)
                load(parameter, weight.narrow(0, head_start, heads_per_rank))
                sinks.add(name)
            else:
                yield name, weight

    loaded: set[str] = _load_whole(
        self, ep_rank_end, ep_rank_start, heads_per_rank, head_start, left(), stacked_params_mapping
    )
    return loaded | sinks
