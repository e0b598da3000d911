"""Weights: read from safetensors, verified against the architecture, rounded to the precision that serves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from services.contracts.sampling import Precision
from services.contracts.weights import DigestBuilder
from services.rollout.engine import ModelUnsupportedError, WeightsRejectedError
from services.rollout.engines.torch_engine.architecture import Architecture
from services.rollout.engines.torch_engine.linear import Linear, rounded_linear

DTYPES = ("BF16", "F16", "F32")
"""Dtypes a snapshot may have, by safetensors' names; everything is rounded to BF16 before anything else."""
_PIECE_BYTES = 1 << 20


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


@dataclass(frozen=True)
class DecoderWeights:
    """One policy version, ready to compute with. Immutable: a new version is a new object."""

    embedding: Tensor
    """bf16 [vocab_size, hidden_size]."""
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Linear


def snapshot_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory, in order. Raises ModelUnsupportedError when there are none."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return sorted({directory / name for name in json.loads(index.read_text())["weight_map"].values()})
    single = directory / "model.safetensors"
    if not single.is_file():
        raise ModelUnsupportedError(f"{directory} has neither model.safetensors nor model.safetensors.index.json")
    return [single]


def digest_of_files(files: list[Path]) -> str:
    """Digest of a snapshot on disk; for a single file the one a push of that file would carry."""
    digest = DigestBuilder()
    for file in files:
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE_BYTES):
                digest.update(piece)
    return digest.result()


def read_tensors(files: list[Path], architecture: Architecture) -> dict[str, Tensor]:
    """Every tensor of the architecture as bf16. Raises WeightsRejectedError for the first thing that is wrong.

    Names, shapes and dtypes are checked from the headers before any value is read.
    """
    shapes = architecture.tensor_shapes()
    found: dict[str, Path] = {}
    for file in files:
        found |= dict.fromkeys(_checked_names(file, shapes, architecture.tied_embeddings), file)
    if missing := sorted(shapes.keys() - found.keys()):
        raise WeightsRejectedError(missing[0], f"{len(shapes)} tensors", f"{len(missing)} of them missing")
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in (name for name, where in found.items() if where == file):
                tensor = opened.get_tensor(name).bfloat16()
                if not torch.isfinite(tensor).all():
                    raise WeightsRejectedError(name, "finite values", "NaN or infinity")
                tensors[name] = tensor
    return tensors


def _checked_names(file: Path, shapes: dict[str, tuple[int, ...]], tied_embeddings: bool) -> list[str]:
    names = []
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # not a mapping
                if tied_embeddings and name == "lm_head.weight":
                    continue  # some writers repeat the embedding under this name
                if name not in shapes:
                    raise WeightsRejectedError(name, "a tensor of this model", "an unknown name")
                header = opened.get_slice(name)
                shape, dtype = tuple(header.get_shape()), header.get_dtype()
                if shape != shapes[name]:
                    raise WeightsRejectedError(name, f"shape {list(shapes[name])}", f"shape {list(shape)}")
                if dtype not in DTYPES:
                    raise WeightsRejectedError(name, f"dtype {', '.join(DTYPES)}", f"dtype {dtype}")
                names.append(name)
    except SafetensorError as error:
        raise WeightsRejectedError("snapshot", "a safetensors file", str(error)) from error
    return names


def rounded_weights(tensors: dict[str, Tensor], architecture: Architecture, precision: Precision) -> DecoderWeights:
    """Quantises what `precision` quantises: the linear layers, and the head if it says so."""
    head = tensors["model.embed_tokens.weight" if architecture.tied_embeddings else "lm_head.weight"]
    return DecoderWeights(
        embedding=tensors["model.embed_tokens.weight"],
        layers=tuple(_layer(tensors, layer, architecture, precision) for layer in range(architecture.layers)),
        norm=tensors["model.norm.weight"],
        head=rounded_linear([head], [], precision if precision.head else Precision(weights="bf16")),
    )


def _layer(tensors: dict[str, Tensor], layer: int, architecture: Architecture, precision: Precision) -> LayerWeights:
    prefix = f"model.layers.{layer}."

    def linear(*names: str, bias: bool) -> Linear:
        return rounded_linear(
            [tensors[f"{prefix}{name}.weight"] for name in names],
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
