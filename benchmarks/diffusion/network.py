"""A bidirectional transformer that predicts masked tokens, as LLaDA does, computed by a trainer or by a rollout engine.

Both compute the same function; they differ in their linear layers alone. The trainer's round float32 masters to BF16
and let gradients pass. The engine's are those of the torch engine, rounded as a `Precision` says. In BF16 the two give
the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ais.contracts.sampling import Precision
from ais.rollout.engines.torch_engine.linear import rounded_linear

Masters = Mapping[str, Tensor]
"""float32 weights by name."""
Linear = Callable[[Tensor], Tensor]
EPSILON = 1e-6


@dataclass(frozen=True)
class Shape:
    """The size of a network; with the defaults 127,000 parameters."""

    vocabulary: int
    """The mask token is the last one."""
    positions: int
    width: int = 64
    layers: int = 3
    heads: int = 4
    inner: int = 128

    @property
    def mask_token(self) -> int:
        return self.vocabulary - 1

    def linears(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of each linear layer."""
        parts = {
            "attention_inputs": (3 * self.width, self.width),
            "attention_output": (self.width, self.width),
            "gate_up": (2 * self.inner, self.width),
            "down": (self.width, self.inner),
        }
        layers = {f"{layer}.{name}": size for layer in range(self.layers) for name, size in parts.items()}
        return {**layers, "head": (self.vocabulary, self.width)}


def new_masters(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Random weights: normal, of standard deviation 1 / sqrt(inputs); embeddings of 0.5."""
    draw = torch.Generator().manual_seed(seed)
    masters = {name: torch.randn(size, generator=draw) / math.sqrt(size[1]) for name, size in shape.linears().items()}
    masters["embedding"] = 0.5 * torch.randn(shape.vocabulary, shape.width, generator=draw)
    masters["places"] = 0.5 * torch.randn(shape.positions, shape.width, generator=draw)
    return masters


class Network:
    """One policy. A call is `ais_core.diffusion.Denoiser`: tokens and the places that hold one, to logits."""

    def __init__(self, shape: Shape, masters: Masters, linears: Mapping[str, Linear]) -> None:
        self.shape = shape
        self._embedding, self._places = masters["embedding"].bfloat16(), masters["places"].bfloat16()
        self._linears = linears

    @classmethod
    def trained(cls, shape: Shape, masters: Masters) -> Network:
        """In BF16, with gradients to the masters."""
        linears = {name: _Trained(masters[name]) for name in shape.linears()}
        return cls(shape, masters, linears)

    @classmethod
    def served(cls, shape: Shape, masters: Masters, precision: Precision) -> Network:
        """As a rollout engine of that precision computes it. The head is quantised where `precision.head` says so."""
        bf16 = Precision(weights="bf16")
        linears = {
            name: rounded_linear(
                [masters[name].detach().bfloat16()], [], precision if precision.head or name != "head" else bf16
            )
            for name in shape.linears()
        }
        return cls(shape, {name: master.detach() for name, master in masters.items()}, linears)

    def __call__(self, tokens: Tensor, present: Tensor) -> Tensor:
        """(N, L) tokens, places -> (N, L, V) float32 logits; the mask token is never predicted."""
        rows, length = tokens.shape
        hidden = None if bool(present.all()) else present[:, None, None, :]
        stream = (F.embedding(tokens, self._embedding) + self._places[:length]).view(rows * length, -1)
        for layer in range(self.shape.layers):
            stream = stream + self._attended(layer, stream, rows, hidden)
            gate, up = self._linears[f"{layer}.gate_up"](_normalised(stream)).chunk(2, dim=-1)
            stream = stream + self._linears[f"{layer}.down"](F.silu(gate) * up)
        logits = self._linears["head"](_normalised(stream)).float().view(rows, length, -1)
        return logits.index_fill(-1, torch.tensor(self.shape.mask_token), -math.inf)

    def _attended(self, layer: int, stream: Tensor, rows: int, hidden: Tensor | None) -> Tensor:
        inputs = self._linears[f"{layer}.attention_inputs"](_normalised(stream)).float()
        query, key, value = inputs.view(rows, -1, 3, self.shape.heads, self.shape.width // self.shape.heads).permute(
            2, 0, 3, 1, 4
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
        return self._linears[f"{layer}.attention_output"](attended.transpose(1, 2).reshape(stream.shape).bfloat16())


@dataclass(frozen=True)
class _Trained:
    """bf16 [n, inputs] to bf16 [n, outputs], with products in float32, as the engine's are."""

    master: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs.float(), self.master.bfloat16().float()).bfloat16()


def _normalised(stream: Tensor) -> Tensor:
    """By the root of the mean square, computed in float32."""
    exact = stream.float()
    return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + EPSILON)).bfloat16()
