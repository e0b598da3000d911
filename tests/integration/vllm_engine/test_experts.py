"""Mixtures of experts in vLLM on a CPU: FP8 as the linear layers have it, and new weights that really arrive."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from experts_alone import CHOSEN, LAYER, TOKENS, inputs, write_models
from safetensors import safe_open
from safetensors.torch import load_file

from ais_core.numerics import FORMATS, encode_weight

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A product of inputs [n, in] and a weight [out, in]."""
Tensors = dict[str, torch.Tensor]
ALLOWED = {"bf16": 0.01, "fp8": 0.035}
"""Share of the norm. Without FP8's rounding the reference of FP8 would be 0.05 to 0.07 away."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, and what vLLM makes of them."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    root = tmp_path_factory.mktemp("experts")
    write_models(root)
    program = str(Path(__file__).with_name("experts_alone.py"))
    subprocess.run([sys.executable, program, str(root)], check=True)
    return root


def plain(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return inputs.double() @ weight.double().t()


def rounded(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """E4M3 weights by channel, E4M3 inputs by token."""
    encoded = encode_weight(weight.contiguous(), "e4m3", "channel")
    scale = inputs.float().abs().amax(-1, keepdim=True) / FORMATS["e4m3"].largest
    codes = FORMATS["e4m3"].round(inputs.float() / scale)
    return plain(codes.double() * scale, encoded.codes.double() * encoded.scales.double())


def expert(tensors: Tensors, kind: str, number: int, inputs: torch.Tensor, product: Product) -> torch.Tensor:
    """What one expert makes of bf16 inputs [n, features], float64."""
    layer = f"model.layers.{LAYER}.mlp.experts"
    if kind == "gpt_oss":
        first, second = (tensors[f"{layer}.{name}_proj"][number].t() for name in ("gate_up", "down"))
        biases = [tensors[f"{layer}.{name}_proj_bias"][number].double() for name in ("gate_up", "down")]
        hidden = product(inputs, first) + biases[0]
        gate, up = hidden[:, ::2].clamp(max=7.0), hidden[:, 1::2].clamp(-7.0, 7.0)
        return product(((up + 1) * gate * torch.sigmoid(1.702 * gate)).bfloat16(), second) + biases[1]
    gate, up, down = (tensors[f"{layer}.{number}.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return product((F.silu(product(inputs, gate)) * product(inputs, up)).bfloat16(), down)


def mixture(tensors: Tensors, kind: str, product: Product) -> torch.Tensor:
    tokens, weights, chosen = inputs()
    given = [
        sum(
            weights[token, place].double()
            * expert(tensors, kind, int(chosen[token, place]), tokens[token : token + 1], product)[0]
            for place in range(CHOSEN)
        )
        for token in range(TOKENS)
    ]
    return torch.stack(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "product"), [("bf16", plain), ("fp8", rounded)])
@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_a_layers_experts_are_those_of_the_weights_that_were_loaded_last(
    kind: str, precision: str, product: Product, directory: Path
) -> None:
    """But for roundings to BF16, and the FP8 steps that these make now and then."""
    found = load_file(directory / f"{kind}-{precision}.safetensors")
    for loaded, name in (("first", "a"), ("other", "b")):
        expected = mixture(load_file(directory / kind / name / "model.safetensors"), kind, product)
        assert (found[loaded].double() - expected).norm() < ALLOWED[precision] * expected.norm(), loaded
    assert torch.equal(found["again"], found["first"])


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp8", torch.float8_e4m3fn)])
@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_the_dtypes_that_a_replica_is_held_to_are_those_of_experts_too(
    kind: str, precision: str, dtype: torch.dtype, directory: Path
) -> None:
    with safe_open(directory / f"{kind}-{precision}.safetensors", framework="pt") as file:
        assert file.metadata() == {"first": str(dtype), "other": str(dtype)}


def test_the_sinks_of_gpt_oss_are_loaded_too(directory: Path) -> None:
    sinks = load_file(directory / "gpt_oss/b/model.safetensors")[f"model.layers.{LAYER}.self_attn.sinks"]
    assert torch.equal(load_file(directory / "gpt_oss-bf16.safetensors")["sinks"], sinks)
