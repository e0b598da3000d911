"""Scales of an FP8 key-value cache: taken from sequences, the same for everything a layer caches."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ais.contracts.sampling import Precision
from ais.rollout.engines.snapshots import snapshot_files
from ais.rollout.engines.torch_engine.architecture import read_architecture
from ais.rollout.engines.torch_engine.calibration import cache_range, calibrated
from ais.rollout.engines.torch_engine.decoder import Decoder
from ais.rollout.engines.torch_engine.probe import score
from ais.rollout.engines.torch_engine.weights import DecoderWeights, read_tensors, rounded_weights

DEMO = Path(__file__).parents[3] / "examples/sort16/model"
SEQUENCES = ((1, 7, 3, 9, 12, 5, 5, 4, 8, 11, 10, 3, 6, 6, 9, 4, 12, 14), (1, 4, 4, 3, 9, 8, 8, 5, 3, 7, 6, 11))
LARGEST = 448.0

ARCHITECTURE = read_architecture(DEMO)


def weights_for(precision: Precision, larger: float = 1.0) -> DecoderWeights:
    """The demo's, with values `larger` times as large, which its outputs do away with again."""
    tensors = read_tensors(snapshot_files(DEMO), ARCHITECTURE)
    for name, tensor in tensors.items():
        factor = {"v_proj": larger, "o_proj": 1 / larger}.get(name.split(".")[-2], 1.0)
        tensors[name] = tensor * factor
    return rounded_weights(tensors, ARCHITECTURE, precision)


def logprobs(precision: Precision, larger: float = 1.0) -> torch.Tensor:
    weights, _ranges = calibrated(weights_for(precision, larger), ARCHITECTURE, precision, SEQUENCES)
    with torch.inference_mode():
        return torch.tensor([one for part in score(weights, ARCHITECTURE, precision, SEQUENCES) for one in part])


@torch.inference_mode()
def test_what_is_cached_lies_on_the_grid_of_its_layers_scale() -> None:
    precision = Precision(weights="bf16", kv_cache="e4m3", kv_scale="calibrated")
    weights, ranges = calibrated(weights_for(precision), ARCHITECTURE, precision, SEQUENCES)
    assert ranges is not None
    decoder = Decoder(ARCHITECTURE, precision, 40, weights.device)
    largest = {"keys": 0.0, "values": 0.0}
    for layer, cached in zip(weights.layers, decoder.read(weights, torch.tensor(SEQUENCES[0])), strict=True):
        assert layer.cache_scales is not None
        for part, scale, found in zip(
            largest, (layer.cache_scales.keys, layer.cache_scales.values), cached, strict=True
        ):
            codes = (found / scale).to(torch.float8_e4m3fn).float()
            torch.testing.assert_close(codes * scale, found, rtol=1e-6, atol=0)
            largest[part] = max(largest[part], float(scale * LARGEST))
    assert {part: one.maximum for part, one in ranges.items()} == pytest.approx(largest)


def test_values_beyond_the_format_are_clipped_at_scale_one_and_not_when_calibrated() -> None:
    exact = logprobs(Precision(weights="bf16"))
    for larger, ratio in ((1.0, 3.0), (2.0**12, 0.2)):
        one, shared, own = (
            (logprobs(Precision(weights="bf16", kv_cache="e4m3", kv_scale=scale), larger) - exact).abs().mean()
            for scale in ("one", "calibrated", "token")
        )
        assert shared < ratio * one
        assert own < 3 * shared


def test_the_share_that_is_clipped_is_counted_with_the_scale_of_the_other_sequences() -> None:
    layer = [torch.tensor([1.0, 5.0, 2.0]), torch.tensor([3.0, 4.0, 1.0, 1.0, 1.0])]
    assert (cache_range([layer], None).maximum, cache_range([layer], None).clipped_share) == (5.0, 1 / 8)
    assert cache_range([layer], 2.0).clipped_share == 3 / 8
    assert math.isnan(cache_range([layer[:1]], None).clipped_share)


def test_weights_without_scales_are_not_taken_for_calibrated_ones() -> None:
    precision = Precision(kv_cache="e4m3", kv_scale="calibrated")
    weights = weights_for(precision)
    with pytest.raises(ValueError, match="no scales"), torch.inference_mode():
        score(weights, ARCHITECTURE, precision, SEQUENCES)
