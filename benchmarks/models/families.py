"""Tiny random models of the families that people train, made by transformers' own classes.

Their shapes are what vLLM's CPU kernels take: heads of 32 or more, GPT-OSS' and Qwen3.5's as large as the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 64
COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_HEADS = {"head_dim": 32}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Qwen2": ("qwen2", {}),
    "Qwen3": ("qwen3", _HEADS),
    "Llama": ("llama", _HEADS),
    "Llama, tied": ("llama", {**_HEADS, "tie_word_embeddings": True}),
    "Mistral": ("mistral", _HEADS),
    "Gemma 3": ("gemma3_text", {**_HEADS, "query_pre_attn_scalar": 32, "tie_word_embeddings": True}),
    "OLMo 3": ("olmo3", {}),
    "SmolLM3": ("smollm3", {}),
    "Phi-3": ("phi3", {"original_max_position_embeddings": 512}),
    "Qwen3-MoE": ("qwen3_moe", {**_HEADS, **_EXPERTS, "num_experts": 4, "norm_topk_prob": True}),
    "GPT-OSS": ("gpt_oss", {"head_dim": 64, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "Qwen3.5": (
        "qwen3_5_text",
        {
            **_HEADS,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
        },
    ),
}
"""Model type and what differs from `COMMON`, by the name that people use."""


def write_family(name: str, directory: Path, seed: int = 0) -> Path:
    """A random model of that family as a Hugging Face directory of BF16 weights."""
    model_type, shape = FAMILIES[name]
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**COMMON, **shape}))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias") or "norm" in parameter_name:
                parameter += 0.2 * torch.randn_like(parameter)
    model.bfloat16().save_pretrained(directory)
    return directory
