"""INT8 checkpoints made from BF16 ones hold the very numbers that the torch engine computes with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ais.rollout.engines.vllm_engine.int8 import int8_tensors, write_int8_directory
from ais_core.numerics import quantize_weight

LINEAR = "model.layers.0.mlp.down_proj.weight"
KEPT = ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "lm_head.weight")


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {LINEAR: (24, 40), KEPT[0]: (50, 24), KEPT[1]: (24,), KEPT[2]: (50, 24)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def test_codes_times_scales_are_the_rounded_weight() -> None:
    weight = tensors()[LINEAR]
    encoded = dict(int8_tensors([(LINEAR, weight)]))
    assert encoded.keys() == {LINEAR, f"{LINEAR}_scale"}
    assert encoded[LINEAR].dtype == torch.int8
    assert encoded[f"{LINEAR}_scale"].shape == (24, 1)
    assert torch.equal(encoded[LINEAR].float() * encoded[f"{LINEAR}_scale"], quantize_weight(weight, "int8"))


def test_float32_masters_are_rounded_to_bf16_first() -> None:
    master = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    one, other = (dict(int8_tensors([(LINEAR, weight)])) for weight in (master, master.bfloat16()))
    assert torch.equal(one[LINEAR], other[LINEAR])


def test_embeddings_norms_and_head_stay_bf16() -> None:
    original = tensors()
    encoded = dict(int8_tensors(original.items()))
    assert all(torch.equal(encoded[name], original[name]) for name in KEPT)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A model directory with a file for each tensor."""
    model = tmp_path / "model"
    model.mkdir()
    weight_map = {}
    for number, (name, tensor) in enumerate(tensors().items()):
        weight_map[name] = f"model-{number}.safetensors"
        save_file({name: tensor}, model / weight_map[name])
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (model / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (model / "tokenizer.json").write_text("{}")
    return model


def test_a_directory_holds_the_tensors_of_its_index_and_says_how_they_are_quantised(
    sharded: Path, tmp_path: Path
) -> None:
    target = tmp_path / "int8"
    write_int8_directory(sharded, target)
    index = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    written = {name: load_file(target / file)[name] for name, file in index.items()}
    expected = dict(int8_tensors(tensors().items()))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    config = json.loads((target / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert (target / "tokenizer.json").read_text() == "{}"


def test_a_directory_in_use_is_not_written_into(sharded: Path, tmp_path: Path) -> None:
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "file").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_int8_directory(sharded, tmp_path / "int8")
