"""Models of Qwen3's published shapes with random weights, made where they are used."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from ais.rollout.engines.torch_engine.architecture import Architecture, read_architecture

POSITIONS = 4096
SPREAD = 0.02
"""Standard deviation of random weights."""


def config_of(name: str) -> Qwen3Config:
    """0.6b, 4b and 8b as published, or one of a few thousand parameters."""
    hidden, inner, layers, heads, key_values, size, vocabulary, tied = {
        "tiny": (64, 160, 2, 4, 2, 32, 96, True),
        "0.6b": (1024, 3072, 28, 16, 8, 128, 151_936, True),
        "4b": (2560, 9728, 36, 32, 8, 128, 151_936, True),
        "8b": (4096, 12_288, 36, 32, 8, 128, 151_936, False),
    }[name]
    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_values, head_dim=size, tie_word_embeddings=tied,
        max_position_embeddings=POSITIONS, initializer_range=SPREAD, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip


def random_model(config: Qwen3Config, device: str, dtype: torch.dtype) -> Qwen3ForCausalLM:
    """A model on the device, its values drawn there."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def architecture_of(config: Qwen3Config) -> Architecture:
    """What the torch engine knows of the model, read as it reads any."""
    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        return read_architecture(Path(directory))


def random_tensors(architecture: Architecture, device: str) -> dict[str, torch.Tensor]:
    """BF16 weights by Hugging Face's names; norms are 1."""
    generator = torch.Generator(device).manual_seed(0)

    def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=torch.bfloat16, device=device)
        return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0.0, SPREAD, generator=generator)

    return {name: drawn(name, shape) for name, shape in architecture.tensor_shapes().items()}
