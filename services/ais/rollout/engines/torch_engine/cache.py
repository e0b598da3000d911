"""The key-value cache: one row of fixed length for each sequence of the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ais.contracts.sampling import Precision
from ais.rollout.engines.torch_engine.architecture import Architecture


@dataclass(frozen=True)
class KeyValueCache:
    """`keys[layer]` and `values[layer]`: float32 or bf16 [rows, key_value_heads, positions, head_size].

    They hold values already rounded to BF16 or to the cache's own format. On a CPU they are float32, which is what
    attention multiplies in there, so that nothing is converted when it reads; pages never written are never backed by
    memory. On a GPU values of BF16 are stored as such.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def allocate(
        cls, architecture: Architecture, precision: Precision, rows: int, positions: int, device: torch.device
    ) -> KeyValueCache:
        halved = device.type == "cuda" and precision.kv_cache == "bf16"
        dtype = torch.bfloat16 if halved else torch.float32
        shape = (rows, architecture.key_value_heads, positions, architecture.head_size)
        return cls(
            keys=tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(architecture.layers)),
            values=tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(architecture.layers)),
        )

    def copy_rows(self, sources: list[int], targets: list[int], positions: int) -> None:
        """Copies the first `positions` positions of each source row to its target row. No row may be in both lists."""
        for tensor in (*self.keys, *self.values):
            tensor[targets, :, :positions] = tensor[sources, :, :positions]

    def clear_rows(self, rows: list[int]) -> None:
        """Forgets rows that may hold NaN. Attention masks what lies behind a sequence, and NaN shows through a mask."""
        if rows:
            for tensor in (*self.keys, *self.values):
                tensor[rows] = 0.0

    def write_prefix(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes positions 0 .. L-1 of `rows`; keys and values [rows, key_value_heads, L, head_size]."""
        length = keys.shape[2]
        self.keys[layer][rows, :, :length] = keys.to(self.keys[layer].dtype)
        self.values[layer][rows, :, :length] = values.to(self.values[layer].dtype)

    def next_entries(self, positions: Tensor) -> Tensor:
        """Flat index, int64 [n * key_value_heads], of position `positions[i]` in row i: the target of `append`."""
        _, heads, length, _ = self.keys[0].shape
        lines = torch.arange(positions.shape[0] * heads, device=positions.device).view(-1, heads) * length
        return (lines + positions[:, None]).view(-1)

    def append(self, layer: int, entries: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes one position of each row; keys and values [n, key_value_heads, head_size]."""
        size = keys.shape[-1]
        dtype = self.keys[layer].dtype
        self.keys[layer].view(-1, size).index_copy_(0, entries, keys.reshape(-1, size).to(dtype))
        self.values[layer].view(-1, size).index_copy_(0, entries, values.reshape(-1, size).to(dtype))
