"""The decode step from fused operations. Prefixes are computed as everywhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ais.rollout.engines.torch_engine.cache import KeyValueCache
from ais.rollout.engines.torch_engine.decoder import Decoder
from ais.rollout.engines.torch_engine.fused.operations import attended, gated, multiplied, normalised, quantised, turned
from ais.rollout.engines.torch_engine.weights import DecoderWeights


class FusedDecoder(Decoder):
    """`Decoder` for a GPU that has Triton."""

    def decode(
        self, weights: DecoderWeights, tokens: Tensor, positions: Tensor, length: int, cache: KeyValueCache
    ) -> Tensor:
        """As `Decoder.decode`."""
        count = tokens.shape[0]
        tables = self._cosines, self._sines
        hidden_future = self._hidden_future(positions, length) if cache.keys[0].dtype == torch.float32 else None
        stream, added = F.embedding(tokens, weights.embedding), None
        for layer, keys, values in zip(weights.layers, cache.keys, cache.values, strict=True):
            stream, inputs = normalised(stream, added, layer.attention_norm, self._epsilon, layer.query_key_value)
            heads = multiplied(layer.query_key_value, inputs).view(count, -1, self._head_size)
            query = turned(
                heads, layer.query_key_norm, positions, tables, self._epsilon, keys, values, self._cache_format
            )
            if hidden_future is None:
                found = attended(query, keys, values, positions, self._scale)
            else:
                found = self._attended_to(query, keys, values, hidden_future).view(count, -1).bfloat16()
            added = multiplied(layer.attention_output, quantised(found, layer.attention_output))
            stream, inputs = normalised(stream, added, layer.mlp_norm, self._epsilon, layer.gate_up)
            added = multiplied(layer.down, gated(multiplied(layer.gate_up, inputs), layer.down))
        _, inputs = normalised(stream, added, weights.norm, self._epsilon, weights.head)
        return multiplied(weights.head, inputs).float()
