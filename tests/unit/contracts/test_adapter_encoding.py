"""An adapter gives back every file of a version exactly, from any layout of the model; what is damaged never does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ais.contracts.weights.adapter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    apply_adapter,
    encode_adapter,
    factor_names,
    merged,
)
from ais.contracts.weights.delta_blocks import DeltaError
from ais.contracts.weights.offer import digest_of_file

RANK, ALPHA = 4, 6
UP, NORM = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"


@dataclass(frozen=True)
class Version:
    """A model on disk, a file of a version of it, and the adapter between them."""

    model: list[Path]
    adapter: Path
    file: Path

    def sent(self, target: Path) -> Path:
        encode_adapter(self.adapter, self.file, target)
        return target

    def given_back(self, sent: Path) -> bytes:
        target = sent.with_name("result")
        apply_adapter(self.model, sent, target, self.file.stat().st_size, digest_of_file(self.file))
        return target.read_bytes()


@pytest.fixture
def version(tmp_path: Path) -> Version:
    generator = torch.Generator().manual_seed(0)
    names = [f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in range(2) for part in ("up", "down")]
    weights = {name: torch.randn(96, 160, generator=generator).bfloat16() for name in names}
    weights[NORM] = torch.randn(160, generator=generator).bfloat16()
    factors = {}
    trained = dict(weights)
    for name in names[:3]:
        a, b = torch.randn(RANK, 160, generator=generator), 0.01 * torch.randn(96, RANK, generator=generator)
        factors |= dict(zip(factor_names(name), (a, b), strict=True))
        trained[name] = merged(weights[name], a, b, ALPHA / RANK)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(factors, adapter / WEIGHTS_FILE)
    (adapter / CONFIG_FILE).write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    save_file(trained, tmp_path / "version", {"format": "pt", "note": "a probe"})
    save_file(weights, tmp_path / "model")
    return Version([tmp_path / "model"], adapter, tmp_path / "version")


def test_it_makes_the_files_bytes_of_the_models(version: Version, tmp_path: Path) -> None:
    sent = version.sent(tmp_path / "sent")
    assert version.given_back(sent) == version.file.read_bytes()


def test_only_the_factors_travel(version: Version, tmp_path: Path) -> None:
    factors = (version.adapter / WEIGHTS_FILE).stat().st_size
    assert version.sent(tmp_path / "sent").stat().st_size < factors + 3000 < version.file.stat().st_size


def test_a_model_in_other_files_and_a_wider_dtype_serves_as_well(version: Version, tmp_path: Path) -> None:
    weights = {name: weight.float() for name, weight in load_file(version.model[0]).items()}
    halves = [dict(list(weights.items())[part::2]) for part in range(2)]
    parts = [tmp_path / f"part-{part}" for part in range(2)]
    for half, part in zip(halves, parts, strict=True):
        save_file(half, part)
    other = Version(parts, version.adapter, version.file)
    assert other.given_back(other.sent(tmp_path / "sent")) == version.file.read_bytes()


def test_a_file_without_adapters_comes_back_too(version: Version, tmp_path: Path) -> None:
    save_file({NORM: load_file(version.file)[NORM]}, tmp_path / "norms")
    norms = Version(version.model, version.adapter, tmp_path / "norms")
    assert norms.given_back(norms.sent(tmp_path / "sent")) == (tmp_path / "norms").read_bytes()


def another_model(version: Version, sent: Path) -> None:
    weights = load_file(version.model[0])
    weights[UP][3, 5] += 1.0
    save_file(weights, version.model[0])


def a_smaller_model(version: Version, sent: Path) -> None:
    save_file({NORM: load_file(version.model[0])[NORM]}, version.model[0])


def another_shape(version: Version, sent: Path) -> None:
    save_file(load_file(version.model[0]) | {NORM: torch.zeros(7)}, version.model[0])


def cut_off(version: Version, sent: Path) -> None:
    sent.write_bytes(sent.read_bytes()[:-10])


def no_safetensors(version: Version, sent: Path) -> None:
    sent.write_bytes(b"\xff" * 400)


def changed(change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> Callable[[Version, Path], None]:
    def damage(version: Version, sent: Path) -> None:
        with safe_open(sent, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
        tensors = load_file(sent)
        change(tensors, metadata)
        save_file(tensors, sent, metadata)

    damage.__name__ = change.__name__
    return damage


@changed
def one_factor(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    del tensors[factor_names(UP)[1]]


@changed
def factors_of_another_shape(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    tensors[factor_names(UP)[1]] = torch.zeros(96, RANK + 1)


@changed
def no_header(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    del metadata["ais_header"]


@changed
def header_of_nothing(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    metadata["ais_header"] = "AAAA"


@changed
def scale_of_letters(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    metadata["ais_scale"] = "much"


@pytest.mark.parametrize(
    "damage",
    [
        another_model,
        a_smaller_model,
        another_shape,
        cut_off,
        no_safetensors,
        one_factor,
        factors_of_another_shape,
        no_header,
        header_of_nothing,
        scale_of_letters,
    ],
    ids=lambda damage: damage.__name__,
)
def test_what_does_not_give_the_file_is_an_error_and_leaves_nothing(
    damage: Callable[[Version, Path], None], version: Version, tmp_path: Path
) -> None:
    sent = version.sent(tmp_path / "sent")
    damage(version, sent)
    with pytest.raises(DeltaError):
        version.given_back(sent)
    assert not (tmp_path / "result").exists()
