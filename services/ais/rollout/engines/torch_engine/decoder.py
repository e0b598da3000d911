"""The forward pass, two ways into one cache: `fill` for whole prefixes, `decode` for one token of every sequence.

`score` is the pass of `fill` carried through to log-probs, without a cache.

Activations are BF16 between operations, as in the BF16 trainer; products are accumulated in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ais.contracts.sampling import Precision
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.cache import KeyValueCache
from ais.rollout.engines.torch_engine.weights import DecoderWeights, LayerWeights
from ais_core.numerics import quantize_activation, quantize_scaled


class Decoder:
    """Computes with whatever weights it is given, so that a swap is an argument and never a state."""

    def __init__(self, architecture: Architecture, precision: Precision, positions: int, device: torch.device) -> None:
        self._heads = architecture.heads
        self._key_value_heads = architecture.key_value_heads
        self._queries_per_key = architecture.heads // architecture.key_value_heads
        self._head_size = architecture.head_size
        self._epsilon = architecture.norm_epsilon
        self._scale = architecture.head_size**-0.5
        self._cache_format = None if precision.kv_cache == "bf16" else precision.kv_cache
        self._one_scale = precision.kv_scale != "token"
        self._cosines, self._sines = (table.to(device) for table in architecture.rotary_tables(positions))
        self._ages = torch.arange(positions, device=device)

    def fill(self, weights: DecoderWeights, tokens: Tensor, rows: Tensor, cache: KeyValueCache) -> None:
        """Writes keys and values of positions 0 .. L-1 of `rows` (int64 [r]); tokens int64 [r, L].

        Shorter prefixes are padded on the right: what padding writes is overwritten before anything reads it.
        """
        shape = tokens.shape
        stream = F.embedding(tokens.view(-1), weights.embedding)
        for index, layer in enumerate(weights.layers):
            query, key, value = self._prefix_inputs(layer, stream, *shape)
            cache.write_prefix(index, rows, key, value)
            if index + 1 < len(weights.layers):  # nobody reads what the last layer would put out
                stream = self._prefix_outputs(layer, stream, query, key, value)

    def score(self, weights: DecoderWeights, tokens: Tensor) -> Tensor:
        """Log-probs f32 [L-1] of tokens 1 .. L-1 of one sequence, int64 [L], each after those before it."""
        stream = F.embedding(tokens[:-1], weights.embedding)
        for layer in weights.layers:
            stream = self._prefix_outputs(layer, stream, *self._prefix_inputs(layer, stream, 1, len(tokens) - 1))
        logprobs = torch.log_softmax(self._logits(weights, stream), dim=-1)
        return logprobs.gather(1, tokens[1:, None]).squeeze(1)

    def read(self, weights: DecoderWeights, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of one sequence, int64 [L], in each layer: float32 [1, key_value_heads, L, size]."""
        found = []
        stream = F.embedding(tokens, weights.embedding)
        for layer in weights.layers:
            query, key, value = self._prefix_inputs(layer, stream, 1, len(tokens))
            found.append((key, value))
            stream = self._prefix_outputs(layer, stream, query, key, value)
        return found

    def decode(
        self, weights: DecoderWeights, tokens: Tensor, positions: Tensor, length: int, cache: KeyValueCache
    ) -> Tensor:
        """Feeds `tokens` int64 [n] at `positions` int64 [n] of rows 0 .. n-1; logits of the next token, f32 [n, V].

        `length` is more than the largest position: how many positions of the cache are read.
        """
        count = tokens.shape[0]
        cosines, sines = self._cosines[positions], self._sines[positions]
        hidden_future = self._hidden_future(positions, length)
        entries = cache.next_entries(positions)
        stream = F.embedding(tokens, weights.embedding)
        for index, layer in enumerate(weights.layers):
            query, key, value = self._attention_inputs(layer, stream, cosines, sines)
            cache.append(index, entries, key, value)
            attended = self._attended_to(query, cache.keys[index], cache.values[index], hidden_future)
            stream = self._layer_outputs(layer, stream, attended.view(count, -1))
        return self._logits(weights, stream)

    def _hidden_future(self, positions: Tensor, length: int) -> Tensor:
        """float32 [lines, 1, length], a line for each row and key: minus infinity behind the row's position, else 0."""
        count = positions.shape[0]
        hidden_future = torch.zeros(count, length, device=positions.device).masked_fill_(
            self._ages[:length] > positions[:, None], -torch.inf
        )
        return hidden_future.repeat_interleave(self._key_value_heads, 0).unsqueeze(1)

    def _attended_to(self, query: Tensor, keys: Tensor, values: Tensor, hidden_future: Tensor) -> Tensor:
        """`_attended` for queries [n, heads, size] and a layer's whole cache."""
        lines, _, length = hidden_future.shape
        count = query.shape[0]
        keys, values = (part[:count].view(lines, -1, self._head_size)[:, :length] for part in (keys, values))
        query = query.reshape(lines, self._queries_per_key, self._head_size)
        return self._attended(query, keys, values, hidden_future)

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, hidden_future: Tensor) -> Tensor:
        """float32 [lines, queries_per_key, head_size]; sums in float32, whatever the cache holds."""
        if keys.dtype == torch.float32:
            scores = torch.baddbmm(hidden_future, query, keys.transpose(1, 2), alpha=self._scale)
            return torch.bmm(torch.softmax(scores, -1), values)
        exact = torch.float32
        scores = torch.bmm(query.to(keys.dtype), keys.transpose(1, 2), out_dtype=exact)
        shares = torch.softmax(torch.add(hidden_future, scores, alpha=self._scale), -1)
        return torch.bmm(shares.to(values.dtype), values, out_dtype=exact)

    def _prefix_inputs(
        self, layer: LayerWeights, stream: Tensor, count: int, length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of `count` prefixes laid end to end: float32 [count, heads, length, size]."""
        cosines, sines = self._cosines[:length].repeat(count, 1), self._sines[:length].repeat(count, 1)
        query, key, value = (
            part.view(count, length, -1, self._head_size).transpose(1, 2)
            for part in self._attention_inputs(layer, stream, cosines, sines)
        )
        return query, key, value

    def _prefix_outputs(self, layer: LayerWeights, stream: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if query.is_cuda and self._cache_format is None:  # BF16's values already, and fused kernels take no other
            query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=self._scale, enable_gqa=True)
        return self._layer_outputs(layer, stream, attended.transpose(1, 2).reshape(stream.shape[0], -1))

    def _attention_inputs(
        self, layer: LayerWeights, stream: Tensor, cosines: Tensor, sines: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [n, heads, size], keys and values [n, key_value_heads, size], float32, rounded as the cache is."""
        heads = layer.query_key_value(self._normalise(stream) * layer.attention_norm)
        heads = heads.view(stream.shape[0], -1, self._head_size)
        turning, value = heads.tensor_split((self._heads + self._key_value_heads,), dim=1)
        if layer.query_key_norm is not None:
            turning = self._normalise(turning) * layer.query_key_norm
        turned = (turning * cosines[:, None] + _rotate_half(turning) * sines[:, None]).float()
        query, key = turned.tensor_split((self._heads,), dim=1)
        scales = (layer.cache_scales.keys, layer.cache_scales.values) if layer.cache_scales else (None, None)
        return query, self._as_cached(key, scales[0]), self._as_cached(value.float(), scales[1])

    def _layer_outputs(self, layer: LayerWeights, stream: Tensor, attended: Tensor) -> Tensor:
        stream = stream + layer.attention_output(attended.bfloat16())
        gate, up = layer.gate_up(self._normalise(stream) * layer.mlp_norm).chunk(2, dim=-1)
        return stream + layer.down(F.silu(gate) * up)

    def _logits(self, weights: DecoderWeights, stream: Tensor) -> Tensor:
        return weights.head(self._normalise(stream) * weights.norm).float()

    def _normalise(self, stream: Tensor) -> Tensor:
        """Root-mean-square normalisation over the last dimension, computed in float32, without the learned scale."""
        exact = stream.float()
        return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self._epsilon)).bfloat16()

    def _as_cached(self, heads: Tensor, scale: Tensor | None) -> Tensor:
        if self._cache_format is None:
            return heads
        if scale is not None:
            return quantize_scaled(heads, self._cache_format, scale)
        if self._one_scale:
            raise ValueError("these weights have no scales for a cache whose scale is shared: `calibrated` gives them")
        return quantize_activation(heads, self._cache_format)


def _rotate_half(heads: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
