"""The shape of a decoder-only model of the Qwen3 and Llama families, read from a Hugging Face directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ais.rollout.engine import ModelUnsupportedError
from ais.rollout.engines.model_config import read_config
from ais.rollout.engines.stop_tokens import stop_token_ids

MODEL_TYPES = ("qwen3", "llama")
ROPE_TYPES = ("default", "linear", "yarn", "llama3")
"""Scalings whose frequencies do not depend on the length of the sequence."""


@dataclass(frozen=True)
class Architecture:
    """Everything the forward pass needs to know beside the weights."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    norm_epsilon: float
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    query_key_norm: bool
    """Whether queries and keys are normalised per head (Qwen3)."""
    max_positions: int
    stop_token_ids: tuple[int, ...]
    """The model's own end-of-sequence tokens."""
    inverse_frequencies: tuple[float, ...]
    """Rotary frequencies, head_size / 2 of them, scaling applied."""
    rotary_scale: float
    """Factor on cosines and sines (yarn)."""

    def rotary_tables(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, bf16 [positions, head_size], halves repeated as `rotate_half` wants them."""
        frequencies = torch.tensor(self.inverse_frequencies, dtype=torch.float32)
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.rotary_scale).bfloat16(), (angles.sin() * self.rotary_scale).bfloat16()

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a snapshot, by Hugging Face's names."""
        hidden, mlp, head = self.hidden_size, self.intermediate_size, self.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, hidden),
            "model.norm.weight": (hidden,),
        }
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        projections = {
            "self_attn.q_proj": (self.heads * head, hidden, self.attention_bias),
            "self_attn.k_proj": (self.key_value_heads * head, hidden, self.attention_bias),
            "self_attn.v_proj": (self.key_value_heads * head, hidden, self.attention_bias),
            "self_attn.o_proj": (hidden, self.heads * head, self.attention_bias),
            "mlp.gate_proj": (mlp, hidden, self.mlp_bias),
            "mlp.up_proj": (mlp, hidden, self.mlp_bias),
            "mlp.down_proj": (hidden, mlp, self.mlp_bias),
        }
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
            shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
            for name, (rows, columns, bias) in projections.items():
                shapes[f"{prefix}{name}.weight"] = (rows, columns)
                if bias:
                    shapes[f"{prefix}{name}.bias"] = (rows,)
            if self.query_key_norm:
                shapes[f"{prefix}self_attn.q_norm.weight"] = (head,)
                shapes[f"{prefix}self_attn.k_norm.weight"] = (head,)
        return shapes


def read_architecture(directory: Path) -> Architecture:
    """Raises ModelUnsupportedError for a directory that is missing or a model this engine does not compute."""
    config = read_config(directory)
    _require(config.model_type in MODEL_TYPES, "model_type", " or ".join(MODEL_TYPES), config.model_type)
    _require(config.hidden_act == "silu", "hidden_act", "silu", config.hidden_act)
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    _require(not sliding, "layer_types", "full attention in every layer", "sliding_attention")
    frequencies, scale = _rotary(config)
    return Architecture(
        model_type=config.model_type,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        head_size=config.head_dim,
        norm_epsilon=config.rms_norm_eps,
        tied_embeddings=config.tie_word_embeddings,
        attention_bias=config.attention_bias,
        mlp_bias=getattr(config, "mlp_bias", False),
        query_key_norm=config.model_type == "qwen3",
        max_positions=config.max_position_embeddings,
        stop_token_ids=stop_token_ids(directory, config),
        inverse_frequencies=frequencies,
        rotary_scale=scale,
    )


def _rotary(config: Any) -> tuple[tuple[float, ...], float]:
    rope_type = config.rope_parameters["rope_type"]
    _require(rope_type in ROPE_TYPES, "rope_type", " or ".join(ROPE_TYPES), rope_type)
    if rope_type == "default":
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return tuple((1.0 / config.rope_parameters["rope_theta"] ** exponents).tolist()), 1.0
    frequencies, scale = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))
    return tuple(frequencies.tolist()), float(scale)


def _require(condition: bool, field: str, expected: str, got: object) -> None:
    if not condition:
        raise ModelUnsupportedError(f"config.json: {field}: the torch engine computes {expected}, got {got}")
