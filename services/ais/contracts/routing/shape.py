"""How a mixture of experts routes, read from its config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ais.runtime.settings import SettingsError

MOST_BYTE_EXPERTS = 256
"""With more experts a number takes two bytes."""


@dataclass(frozen=True)
class RoutingShape:
    """The layers that choose among experts, and how many they choose."""

    layers: tuple[int, ...]
    """Their places among the decoder layers, ascending."""
    experts: int
    """Experts of such a layer."""
    experts_per_token: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """What an expert's number is on the wire."""
        return id_dtype(self.experts)

    @property
    def token_bytes(self) -> int:
        """What the experts of one token take on the wire."""
        return len(self.layers) * self.experts_per_token * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.experts_per_token} of {self.experts} experts in {len(self.layers)} layers"


def id_dtype(experts: int) -> np.dtype[Any]:
    """The dtype of an expert's number on the wire."""
    return np.dtype("u1" if experts <= MOST_BYTE_EXPERTS else "<u2")


def routing_shape(config: Mapping[str, Any]) -> RoutingShape | None:
    """What a config.json says; None for a model whose routing is not known here, or that is no mixture."""
    match config.get("model_type"):
        case "qwen3_moe":
            every, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or ()
            layers = range(config["num_hidden_layers"])
            mixed = tuple(place for place in layers if place not in dense and (place + 1) % every == 0)
        case "gpt_oss":
            mixed = tuple(range(config["num_hidden_layers"]))
        case _:
            return None
    # transformers has written both names.
    experts = config["num_local_experts"] if "num_local_experts" in config else config["num_experts"]
    shape = RoutingShape(mixed, experts, config["num_experts_per_tok"])
    return shape if shape.layers else None


def read_routing_shape(model: Path) -> RoutingShape:
    """How the model in a Hugging Face directory routes. Raises SettingsError where that cannot be replayed."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        shape = routing_shape(config)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise SettingsError(
            f"run.routing_replay: {model / 'config.json'} does not say how the model routes: "
            f"{type(error).__name__}: {error}"
        ) from error
    if shape is None:
        raise SettingsError(
            f"run.routing_replay: expected a Qwen3-MoE or GPT-OSS model, {model} is of type "
            f"{config.get('model_type')!r}. Set run.routing_replay to false"
        )
    return shape
