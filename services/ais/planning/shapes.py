"""Models by their shapes: how many parameters, bytes and floating-point operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A decoder of the Qwen3 and Llama kind: grouped-query attention, gated MLP, RMS norms."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    head: int
    """Size of a head."""
    vocabulary: int
    tied: bool
    """Whether the input embedding is the output matrix."""
    head_norms: bool = True
    """Whether queries and keys are normalised by head, as in Qwen3."""

    @property
    def matrices(self) -> int:
        """Parameters of the layers' matrices, which are what is quantised."""
        attention = 2 * self.hidden * self.head * (self.heads + self.key_value_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def embedding(self) -> int:
        """Parameters of the output matrix, and of the input embedding where it is another one."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        norms = self.layers * (2 * self.hidden + 2 * self.head * self.head_norms) + self.hidden
        return self.matrices + norms + self.embedding * (1 if self.tied else 2)

    def served_bytes(self, fp8: bool) -> float:
        """Bytes of the weights that a replica holds: matrices in FP8 or BF16, all else in BF16. The output matrix is
        held apart from the embedding, also where they are tied."""
        norms = self.parameters - self.matrices - self.embedding * (1 if self.tied else 2)
        return self.matrices * (1 if fp8 else 2) + 2.0 * (norms + 2 * self.embedding)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the BF16 key-value cache of one token."""
        return 2 * 2 * self.layers * self.key_value_heads * self.head

    def forward_flops(self, context: float) -> float:
        """Operations of one token that looks at `context` others: 2 a parameter that multiplies, and the attention."""
        return 2.0 * (self.matrices + self.embedding) + 4.0 * self.layers * self.heads * self.head * context

    def training_flops(self, length: float) -> float:
        """Operations to train on one token of a sequence of that length: forward, and twice that backward. A token
        looks at half of the sequence on average."""
        return 3.0 * self.forward_flops(length / 2)


MODELS: Mapping[str, Shape] = {
    "0.6b": Shape(1024, 3072, 28, 16, 8, 128, 151_936, tied=True),
    "4b": Shape(2560, 9728, 36, 32, 8, 128, 151_936, tied=True),
    "8b": Shape(4096, 12_288, 36, 32, 8, 128, 151_936, tied=False),
    "70b": Shape(8192, 28_672, 80, 64, 8, 128, 128_256, tied=False, head_norms=False),
}
"""Qwen3's published shapes, and Llama 3's of 70B."""
