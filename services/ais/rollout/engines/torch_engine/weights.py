"""Weights: read from safetensors, verified against the architecture, rounded to the precision that serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ais.contracts.sampling import Precision
from ais.contracts.weights.forms import BF16, scale_name
from ais.rollout.engines.snapshots import checked_tensors
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.linear import Float32Head, Linear, rounded_linear
from ais_core.numerics import Quantized

CPU = torch.device("cpu")


@dataclass(frozen=True)
class CacheScales:
    """What all keys, and all values, of a layer's cache are divided by before they are rounded. float32, no
    dimensions."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Norms are bf16."""

    attention_norm: Tensor
    query_key_value: Linear
    query_key_norm: Tensor | None
    """bf16 [heads + key_value_heads, head_size]: the query norm for each query head, then the key norm."""
    attention_output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    cache_scales: CacheScales | None = None
    """None: each key and each value has its own (`calibration.py`)."""


@dataclass(frozen=True)
class DecoderWeights:
    """One policy version, ready to compute with. Immutable: a new version is a new object."""

    embedding: Tensor
    """bf16 [vocab_size, hidden_size]."""
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Linear

    @property
    def device(self) -> torch.device:
        """Where they are, and so where is computed with them."""
        return self.embedding.device


def read_tensors(files: Sequence[Path], architecture: Architecture, form: str = BF16) -> dict[str, Tensor]:
    """Every tensor of the architecture as bf16, or as codes and scales where the form quantises it.

    Raises WeightsRefusedError for the first thing that is wrong.
    """
    return dict(checked_tensors(files, architecture.tensor_shapes(), architecture.tied_embeddings, form))


def rounded_weights(
    tensors: Mapping[str, Tensor], architecture: Architecture, precision: Precision, device: torch.device = CPU
) -> DecoderWeights:
    """Quantises what `precision` quantises and is not quantised yet: the linear layers, and the head if it says so.

    Computed on `device`, where the result stays.
    """
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    return DecoderWeights(
        embedding=tensors["model.embed_tokens.weight"],
        layers=tuple(_layer(tensors, layer, architecture, precision) for layer in range(architecture.layers)),
        norm=tensors["model.norm.weight"],
        head=_head(tensors, architecture, precision),
    )


def _head(tensors: Mapping[str, Tensor], architecture: Architecture, precision: Precision) -> Linear:
    name = "model.embed_tokens.weight" if architecture.tied_embeddings else "lm_head.weight"
    if precision.float32_head:
        return Float32Head(tensors[name].float())
    return rounded_linear(
        [_weight(tensors, name, precision)], [], precision if precision.head else Precision(weights="bf16")
    )


def _weight(tensors: Mapping[str, Tensor], name: str, precision: Precision) -> Tensor | Quantized:
    scales = tensors.get(scale_name(name))
    return tensors[name] if scales is None else Quantized(tensors[name], scales, precision.weights)


def _layer(tensors: Mapping[str, Tensor], layer: int, architecture: Architecture, precision: Precision) -> LayerWeights:
    prefix = f"model.layers.{layer}."

    def linear(*names: str, bias: bool) -> Linear:
        return rounded_linear(
            [_weight(tensors, f"{prefix}{name}.weight", precision) for name in names],
            [tensors[f"{prefix}{name}.bias"] for name in names] if bias else [],
            precision,
        )

    attention_bias, mlp_bias = architecture.attention_bias, architecture.mlp_bias
    query_key_norm = None
    if architecture.query_key_norm:
        query_norm, key_norm = (tensors[f"{prefix}self_attn.{name}_norm.weight"] for name in "qk")
        query_key_norm = torch.stack([query_norm] * architecture.heads + [key_norm] * architecture.key_value_heads)
    return LayerWeights(
        attention_norm=tensors[f"{prefix}input_layernorm.weight"],
        query_key_value=linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", bias=attention_bias),
        query_key_norm=query_key_norm,
        attention_output=linear("self_attn.o_proj", bias=attention_bias),
        mlp_norm=tensors[f"{prefix}post_attention_layernorm.weight"],
        gate_up=linear("mlp.gate_proj", "mlp.up_proj", bias=mlp_bias),
        down=linear("mlp.down_proj", bias=mlp_bias),
    )
