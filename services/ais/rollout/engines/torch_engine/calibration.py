"""The scales of an FP8 key-value cache, from sequences that the weights read without rounding what they cache.

A layer's keys have one scale and its values another: the largest magnitude over what the format can hold. A version
brings its scales with it, and at a swap everything cached is computed again: nothing is read with another scale than it
was written with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ais.contracts.sampling import Precision
from ais.rollout.engine import CacheRange
from ais.rollout.engines.torch_engine.architecture import Architecture
from ais.rollout.engines.torch_engine.decoder import Decoder
from ais.rollout.engines.torch_engine.weights import CacheScales, DecoderWeights
from ais_core.numerics import number_format
from ais_core.numerics.quantizers import SMALLEST_MAXIMUM

UNPROBED_TOKENS = 64
"""Length of the made-up sequence that a version without a probe is calibrated on."""


@dataclass(frozen=True)
class _Magnitudes:
    """What one layer would cache: float32 [any], for each sequence."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@torch.inference_mode()
def calibrated(
    weights: DecoderWeights, architecture: Architecture, precision: Precision, sequences: Sequence[Sequence[int]] = ()
) -> tuple[DecoderWeights, Mapping[str, CacheRange] | None]:
    """The weights with the scales of their cache, and what keys and values were like; None where each has its own.

    Without sequences, tokens from all over the vocabulary stand in for them.
    """
    if precision.kv_cache == "bf16" or precision.kv_scale == "token":
        return weights, None
    found = _magnitudes(weights, architecture, precision, sequences or (_made_up(architecture),))
    largest = number_format(precision.kv_cache).largest
    bound = largest if precision.kv_scale == "one" else None
    ranges = {
        "keys": cache_range([layer.keys for layer in found], bound),
        "values": cache_range([layer.values for layer in found], bound),
    }
    layers = [
        replace(layer, cache_scales=CacheScales(_scale(own.keys, largest, bound), _scale(own.values, largest, bound)))
        for layer, own in zip(weights.layers, found, strict=True)
    ]
    return replace(weights, layers=tuple(layers)), ranges


def cache_range(layers: Sequence[Sequence[Tensor]], bound: float | None) -> CacheRange:
    """What keys or values are like; `layers` has their magnitudes, by layer and sequence.

    What scales clip that were taken from the same sequences would be nothing. So it is counted of each sequence what
    lies beyond the largest of the others, layer by layer; `bound`: beyond that instead. NaN for a single sequence.
    """
    clipped, count = 0, 0
    for sequences in layers:
        maxima = [float(magnitudes.amax()) for magnitudes in sequences]
        for index, magnitudes in enumerate(sequences):
            others = maxima[:index] + maxima[index + 1 :]
            limit = bound if bound is not None else max(others, default=math.nan)
            clipped = clipped + int((magnitudes > limit).sum()) if not math.isnan(limit) else clipped
            count += 0 if math.isnan(limit) else magnitudes.numel()
    maximum = max(float(magnitudes.amax()) for sequences in layers for magnitudes in sequences)
    return CacheRange(maximum, clipped / count if count else math.nan)


def _scale(sequences: Sequence[Tensor], largest: float, bound: float | None) -> Tensor:
    maximum = torch.stack([magnitudes.amax() for magnitudes in sequences]).amax()
    if bound is not None:
        return torch.ones_like(maximum)
    return maximum.clamp(min=SMALLEST_MAXIMUM) / largest


def _magnitudes(
    weights: DecoderWeights, architecture: Architecture, precision: Precision, sequences: Sequence[Sequence[int]]
) -> list[_Magnitudes]:
    unrounded = precision.model_copy(update={"kv_cache": "bf16"})
    decoder = Decoder(architecture, unrounded, max(map(len, sequences)), weights.device)
    read = [decoder.read(weights, torch.tensor(sequence, device=weights.device)) for sequence in sequences]
    return [
        _Magnitudes(*(tuple(part.abs().flatten() for part in parts) for parts in zip(*of_layer, strict=True)))
        for of_layer in zip(*read, strict=True)
    ]


def _made_up(architecture: Architecture) -> list[int]:
    length = min(UNPROBED_TOKENS, architecture.max_positions)
    return torch.linspace(0, architecture.vocab_size - 1, length).long().tolist()
