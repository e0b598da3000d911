"""The probe tells right weights from wrong ones however far training has sharpened the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ais.contracts.sampling import Precision
from ais.contracts.weights.probe import Probe
from ais.contracts.weights.refusal import PROBE, WeightsRefusedError
from ais.rollout.engines.probe import judge, tolerance
from ais.rollout.engines.torch_engine.architecture import Architecture, read_architecture
from ais.rollout.engines.torch_engine.probe import score
from ais.rollout.engines.torch_engine.weights import rounded_weights

DEMO = Path(__file__).parents[3] / "examples/sort16/model"
BF16 = Precision(weights="bf16", kv_cache="bf16")
SHARPER = (1.0, 3.0, 8.0)
"""What logits are multiplied by: training sharpens a policy, and makes the first batch's responses unlikely."""
LAYER = "model.layers.0"

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return read_architecture(DEMO)


@pytest.fixture(scope="module")
def demo() -> Tensors:
    return load_file(DEMO / "model.safetensors")


def scores(tensors: Tensors, architecture: Architecture, precision: Precision, tokens: list[list[int]]) -> list:
    with torch.inference_mode():
        return score(rounded_weights(tensors, architecture, precision), architecture, precision, tokens)


def sharpened(tensors: Tensors, factor: float) -> Tensors:
    return tensors | {"model.norm.weight": tensors["model.norm.weight"] * factor}


def probe_of(tensors: Tensors, architecture: Architecture) -> Probe:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, architecture.vocab_size, (4, 36), generator=generator).tolist()
    logprobs = scores(tensors, architecture, BF16, tokens)
    clipped = tuple(tuple(min(0.0, logprob) for logprob in sequence) for sequence in logprobs)
    return Probe(tuple(map(tuple, tokens)), clipped)


def zeroed_mlp(tensors: Tensors) -> Tensors:
    name = f"{LAYER}.mlp.down_proj.weight"
    return tensors | {name: torch.zeros_like(tensors[name])}


def permuted_rows(tensors: Tensors) -> Tensors:
    name = f"{LAYER}.self_attn.q_proj.weight"
    return tensors | {name: tensors[name].flip(0).contiguous()}


def negated(tensors: Tensors) -> Tensors:
    name = f"{LAYER}.self_attn.o_proj.weight"
    return tensors | {name: -tensors[name]}


def noisy(tensors: Tensors) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor + torch.randn(tensor.shape, generator=generator).to(tensor.dtype) * tensor.float().std() * 0.5
        if tensor.dim() == 2
        else tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("factor", SHARPER)
@pytest.mark.parametrize("weights", ["bf16", "int8", "e4m3", "e5m2", "e2m1"])
def test_right_weights_are_taken(factor: float, weights: str, architecture: Architecture, demo: Tensors) -> None:
    precision = Precision.model_validate({"weights": weights, "activations": "bf16" if weights == "e2m1" else "e4m3"})
    tensors = sharpened(demo, factor)
    probe = probe_of(tensors, architecture)
    logprobs = scores(tensors, architecture, precision, [list(sequence) for sequence in probe.token_ids])
    result = judge(probe, logprobs, tolerance(precision))
    assert result.mean_abs_gap < result.allowed


@pytest.mark.parametrize("factor", SHARPER)
@pytest.mark.parametrize("precision", [BF16, Precision(), Precision(weights="e2m1")], ids=lambda one: one.weights)
@pytest.mark.parametrize("wrong", [zeroed_mlp, permuted_rows, negated, noisy])
def test_wrong_weights_are_refused(
    factor: float,
    wrong: Callable[[Tensors], Tensors],
    precision: Precision,
    architecture: Architecture,
    demo: Tensors,
) -> None:
    tensors = sharpened(demo, factor)
    probe = probe_of(tensors, architecture)
    logprobs = scores(wrong(tensors), architecture, precision, [list(sequence) for sequence in probe.token_ids])
    with pytest.raises(WeightsRefusedError, match="measured gap") as refusal:
        judge(probe, logprobs, tolerance(precision))
    assert refusal.value.field == PROBE
