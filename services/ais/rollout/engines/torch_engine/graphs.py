"""Decode steps as CUDA graphs: on a GPU a step of a small model costs what its hundreds of launches cost.

A graph is recorded for a number of rows and of cache positions, both rounded up, when a step first needs it. It reads
weights, tokens and positions from the places it was recorded with, so a new version is copied into the old one's place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ais.rollout.engines.torch_engine.cache import KeyValueCache
from ais.rollout.engines.torch_engine.decoder import Decoder
from ais.rollout.engines.torch_engine.weights import DecoderWeights

LEAST_ROWS = 16
POSITIONS = 128
"""Cache positions read are a multiple of it."""


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    logits: Tensor


class GraphedDecoder:
    """`Decoder.decode` for one cache, on a GPU, without a launch for each operation."""

    def __init__(self, decoder: Decoder, weights: DecoderWeights, cache: KeyValueCache) -> None:
        self._decoder = decoder
        self._weights = copy.deepcopy(weights)
        self._cache = cache
        rows, _, self._positions, _ = cache.keys[0].shape
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=weights.device)
        self._at = torch.zeros(rows, dtype=torch.int64, device=weights.device)
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def load(self, weights: DecoderWeights) -> None:
        """Copies another version of the same shapes into the place the graphs read."""
        for target, source in zip(tensors_of(self._weights), tensors_of(weights), strict=True):
            target.copy_(source)

    def decode(self, tokens: Tensor, positions: Tensor, length: int) -> Tensor:
        """As `Decoder.decode`. Rows behind the last one compute nothing that anybody reads."""
        with torch.cuda.device(self._tokens.device):  # a thread begins with the first one
            return self._decode(tokens, positions, length)

    def _decode(self, tokens: Tensor, positions: Tensor, length: int) -> Tensor:
        count = len(tokens)
        rows = min(max(LEAST_ROWS, 1 << (count - 1).bit_length()), len(self._tokens))
        length = min(-(-length // POSITIONS) * POSITIONS, self._positions)
        self._tokens[:count].copy_(tokens, non_blocking=True)
        self._at[:count].copy_(positions, non_blocking=True)
        self._at[count:].zero_()
        recorded = self._recorded.get((rows, length)) or self._record(rows, length)
        recorded.graph.replay()
        return recorded.logits[:count]

    def _record(self, rows: int, length: int) -> _Recorded:
        step = (self._weights, self._tokens[:rows], self._at[:rows], length, self._cache)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels compile, and libraries allocate, at their first call
            self._decoder.decode(*step)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Another thread may stage weights meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._decoder.decode(*step)
        self._recorded[rows, length] = recorded = _Recorded(graph, logits)
        return recorded


def tensors_of(part: Any) -> Iterator[Tensor]:
    """Every tensor of weights, in a fixed order."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        for element in part:
            yield from tensors_of(element)
    elif is_dataclass(part):
        for field in fields(part):
            yield from tensors_of(getattr(part, field.name))
