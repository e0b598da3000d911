"""The fast FP8 kernel for CPUs, against vLLM's own in the same engine: the same codes, the same mismatch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest
import torch
from bare_engine import BareEngine, Scores, bare_engine, random_model
from safetensors.torch import load_file

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

FAST = {"ais_cpu_fp8_kernel": "bf16_copy"}
LAYER = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two BF16 directories, a and b."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("a", "b")):
        random_model("llama", seed).save_pretrained(root / name)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def engines(models: dict[str, Path]) -> Iterator[tuple[BareEngine, BareEngine, BareEngine]]:
    """The same weights with the fast kernel, with vLLM's own, and in BF16."""
    with (
        bare_engine(models["a"], quantization="fp8_per_channel", additional_config=FAST) as fast,
        bare_engine(models["a"], quantization="fp8_per_channel") as stock,
        bare_engine(models["a"]) as bf16,
    ):
        yield fast, stock, bf16


def difference(one: Scores, other: Scores) -> float:
    """Mean absolute difference of log-probs."""
    return mean(abs(x - y) for xs, ys in zip(one, other, strict=True) for x, y in zip(xs, ys, strict=True))


def activations() -> torch.Tensor:
    """Tokens of very different sizes, one of them zeros."""
    inputs = torch.randn(33, 768, generator=torch.Generator().manual_seed(0)).bfloat16()
    inputs *= torch.logspace(-3, 3, 33).bfloat16()[:, None]
    inputs[0] = 0
    return inputs


def test_it_is_used_only_where_it_is_asked_for(engines: tuple[BareEngine, BareEngine, BareEngine]) -> None:
    fast, stock, _ = engines
    assert fast.linear_kernel(LAYER) == "Bf16CopyFp8Kernel"
    assert stock.linear_kernel(LAYER) == "ChannelWiseTorchFP8ScaledMMLinearKernel"


def test_activations_are_rounded_to_the_bit_as_vllm_does(engines: tuple[BareEngine, BareEngine, BareEngine]) -> None:
    _, stock, _ = engines
    assert stock.rounds_tokens_as_vllm(LAYER, activations())


def test_a_linear_layer_differs_from_vllms_by_roundings_to_bf16_only(
    engines: tuple[BareEngine, BareEngine, BareEngine], models: dict[str, Path]
) -> None:
    fast, stock, _ = engines
    bias = load_file(models["a"] / "model.safetensors")[f"{LAYER}.bias"].double()
    inputs = activations()
    ours, theirs = (engine.linear(LAYER, inputs).double() for engine in (fast, stock))
    # Each rounds its result to BF16, ours its product as well; float32 sums in another order where products cancel.
    product = (theirs - bias).abs()
    allowed = 2.0**-8 * (product + 2 * theirs.abs()) + 1e-6 * product.amax(1, keepdim=True)
    assert ((ours - theirs).abs() <= allowed).all()


def test_the_mismatch_with_bf16_is_the_same(engines: tuple[BareEngine, BareEngine, BareEngine]) -> None:
    fast, stock, bf16 = (engine.score() for engine in engines)
    assert difference(fast, bf16) == pytest.approx(difference(stock, bf16), rel=0.15)
    assert difference(fast, stock) < difference(stock, bf16)


def test_updates_are_quantised_again_and_restore_exactly(
    engines: tuple[BareEngine, BareEngine, BareEngine], models: dict[str, Path]
) -> None:
    fast, stock, _ = engines
    before = fast.score()
    for engine in (fast, stock):
        engine.update(models["b"] / "model.safetensors")
    updated = fast.score()
    assert difference(updated, stock.score()) < 0.5 * difference(updated, before)
    for engine in (fast, stock):
        engine.update(models["a"] / "model.safetensors")
    assert fast.score() == before
