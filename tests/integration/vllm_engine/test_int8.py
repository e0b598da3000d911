"""INT8 W8A8 in the real engine: live updates are exact, cost no memory, and round as the torch engine does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bare_engine import BareEngine, bare_engine, random_model
from safetensors.torch import load_file, save_file

from ais.contracts.sampling import Precision
from ais.rollout.engines.torch_engine.linear import rounded_linear
from ais.rollout.engines.vllm_engine.int8 import write_int8_directory
from ais.rollout.engines.vllm_engine.precision import mode_of, this_host
from ais.runtime.settings import SettingsError

INT8 = Precision(weights="int8", activations="int8")

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """BF16 directories a and b, and a-int8 and b-int8 made from them."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("a", "b")):
        random_model("qwen3", seed).save_pretrained(root / name)
        write_int8_directory(root / name, root / f"{name}-int8")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def engines(models: dict[str, Path]) -> Iterator[tuple[BareEngine, BareEngine]]:
    """Started from a and from b, side by side."""
    with bare_engine(models["a-int8"]) as a, bare_engine(models["b-int8"]) as b:
        yield a, b


def snapshot(model: Path) -> Path:
    return model / "model.safetensors"


def test_an_updated_engine_is_to_the_bit_one_started_from_those_weights(
    engines: tuple[BareEngine, BareEngine], models: dict[str, Path]
) -> None:
    engine, fresh = engines
    before, expected = engine.score(), fresh.score()
    engine.update(snapshot(models["b"]), "int8")
    assert engine.score() == expected != before
    engine.update(snapshot(models["a"]), "int8")
    assert engine.score() == before
    assert all(math.isfinite(value) for values in before + expected for value in values)


def test_a_linear_layer_differs_from_the_torch_engines_in_ties_only(
    engines: tuple[BareEngine, BareEngine], models: dict[str, Path]
) -> None:
    try:
        mode_of(INT8, this_host())
    except SettingsError as refused:
        pytest.skip(str(refused))
    engine, _ = engines
    name = "model.layers.0.mlp.down_proj"
    weight = load_file(snapshot(models["a"]))[f"{name}.weight"]
    inputs = torch.randn(33, weight.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()
    ours = rounded_linear([weight], [], INT8)(inputs)
    theirs = engine.linear(name, inputs)
    # Same scales and exact products; an activation half-way between two codes, one in 3000, may go either way.
    rounding_error = (ours.float() - inputs.float() @ weight.float().T).abs().mean()
    assert (theirs.float() - ours.float()).abs().mean() < 0.05 * rounding_error


def test_a_layer_tells_what_its_weight_is_kept_in(engines: tuple[BareEngine, BareEngine]) -> None:
    engine, _ = engines  # after live updates, too
    assert engine.weight_dtype("model.layers.0.mlp.down_proj") == "torch.int8"


def test_after_an_update_that_fails_the_old_version_can_be_loaded_again(
    engines: tuple[BareEngine, BareEngine], models: dict[str, Path], tmp_path: Path
) -> None:
    engine, _ = engines
    before = engine.score()
    tensors = load_file(snapshot(models["b"]))
    tensors["model.layers.1.mlp.down_proj.weight"] = tensors["model.layers.1.mlp.down_proj.weight"][:, 1:].contiguous()
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(RuntimeError):
        engine.update(tmp_path / "wrong.safetensors", "int8")
    engine.update(snapshot(models["a"]), "int8")
    assert engine.score() == before


def test_fifty_updates_cost_no_memory(engines: tuple[BareEngine, BareEngine], models: dict[str, Path]) -> None:
    engine, _ = engines
    resident = []
    for update in range(50):
        engine.update(snapshot(models["ab"[update % 2]]), "int8")
        resident.append(engine.resident_bytes)
    assert resident[-1] < 1.05 * resident[10]
