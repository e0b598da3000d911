"""What a version's files call the module's weights, and hold of them: what transformers itself would save."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.core_model_loading import Chunk, WeightConverter

from ais.runtime.process import UnavailableError
from ais.trainer.policy.policy import Policy
from ais.trainer.policy.published import PublishedWeights
from ais.trainer.ranks.ranks import Ranks
from ais.trainer.ranks.sharding import gathered
from ais.trainer.weights.snapshot import Staging, write_snapshot
from benchmarks.models.families import FAMILIES, write_family
from tests.support.tiny_models import random_model


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-MoE: 2 layers of 4 experts."""
    return write_family("Qwen3-MoE", tmp_path_factory.mktemp("mixture"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_version_has_the_tensors_that_transformers_would_save_and_loads_again(family: str, tmp_path: Path) -> None:
    model = write_family(family, tmp_path / "model")
    policy = Policy.load(model, "cpu")
    with torch.no_grad():
        for weight in policy.masters.values():
            weight.mul_(1 + 0.1 * torch.randn_like(weight))
    weights = gathered(policy, Ranks(policy.device))
    snapshot = write_snapshot(1, policy.shapes, weights, None, Staging(tmp_path, shard_bytes=100_000))
    (version := tmp_path / "version").mkdir()
    snapshot.place_in(version)
    shutil.copyfile(model / "config.json", version / "config.json")
    loaded = Policy.load(version, "cpu")

    policy.model.bfloat16().save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved/model.safetensors")
    found = {name: tensor for file in snapshot.files for name, tensor in load_file(file.path).items()}
    assert found.keys() == saved.keys() == load_file(model / "model.safetensors").keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())
    assert all(torch.equal(weight.bfloat16(), policy.masters[name]) for name, weight in loaded.masters.items())


def test_each_weight_is_asked_for_once_and_a_layers_experts_are_held_at_most(mixture: Path) -> None:
    policy = Policy.load(mixture, "cpu")
    first_layer = {name for name in policy.shapes if name.startswith("model.layers.0.mlp.experts.")}
    asked: Counter[str] = Counter()
    yielded = []

    def weight(name: str) -> torch.Tensor:
        if name.startswith("model.layers.1.mlp.experts."):
            assert first_layer <= set(yielded)
        asked[name] += 1
        return policy.weight(name)

    for name, _tensor in policy.published.tensors(weight):
        yielded.append(name)
    assert len(first_layer) == 12
    assert yielded == sorted(policy.shapes)
    assert asked == Counter(policy.masters.keys())


def test_a_file_tensor_made_of_several_weights_is_refused() -> None:
    """As of a checkpoint that holds queries, keys and values together."""
    model = random_model("qwen3", seed=0)
    parts = [f"self_attn.{part}_proj.weight" for part in "qkv"]
    model._weight_conversions = [WeightConverter("self_attn.qkv_proj.weight", parts, [Chunk(dim=0)])]
    with pytest.raises(UnavailableError, match="several weights of the module"):
        PublishedWeights(model)
