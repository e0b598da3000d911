"""Two ranks publish of each family what one process does: all in one start of torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ais.trainer.ranks.ranks import Ranks
from benchmarks.models.families import FAMILIES, write_family
from benchmarks.models.ranks import FIRST, OTHER, alike, apart, publish, publish_by_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: write_family(family, root / f"model-{number}") for number, family in enumerate(FAMILIES)}


@pytest.fixture(scope="module")
def two_ranks(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("two")
    publish_by_ranks([*models.values()], output, output / "log")
    return output


@pytest.mark.parametrize("family", FAMILIES)
def test_two_ranks_publish_what_one_does(family: str, models: dict[str, Path], two_ranks: Path, tmp_path: Path) -> None:
    """Before a step to the bit; after it, what sums in another order make of the step."""
    found = two_ranks / models[family].name
    publish(models[family], tmp_path, Ranks(torch.device("cpu")))
    assert alike(tmp_path, found)
    one, two = (load_file(version / OTHER / "model.safetensors") for version in (tmp_path, found))
    assert one.keys() == two.keys() == load_file(found / FIRST / "model.safetensors").keys()
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in two.items()}
    assert apart(tmp_path, found) < 0.05
