"""A version on disk: the same bytes for the same weights, files of bounded size, gone when nobody needs them."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from ais.contracts.weights.offer import digest_of_file, version_digest
from ais.contracts.weights.probe import Probe, read_probe
from ais.rollout.engines.snapshots import digest_of_files, snapshot_files
from ais.trainer.demo.demo_model import demo_model
from ais.trainer.weights.snapshot import Snapshot, SnapshotWriter, Staging, layout, take_snapshot

PROBE = Probe(token_ids=((1, 5, 9),), logprobs=((-0.5, -2.25),))
WEIGHTS = {
    "b": torch.arange(600.0).view(20, 30),
    "a.weight": torch.ones(7),
    "c": torch.randn(900),
    "d": torch.tensor(2.5),
}


def test_equal_weights_with_equal_probes_are_equal_bytes(tmp_path: Path) -> None:
    backwards = {name: WEIGHTS[name] for name in reversed(WEIGHTS)}
    first, second = (take_snapshot(1, weights, PROBE, Staging(tmp_path)) for weights in (WEIGHTS, backwards))
    assert first.files[0].path.read_bytes() == second.files[0].path.read_bytes()
    assert first.digest == second.digest
    assert take_snapshot(1, WEIGHTS, None, Staging(tmp_path)).digest != first.digest


def test_one_file_is_a_hugging_face_snapshot_with_its_probe(tmp_path: Path) -> None:
    snapshot = take_snapshot(1, WEIGHTS, PROBE, Staging(tmp_path))
    (file,) = snapshot.files
    assert file.path.name == "model.safetensors"
    assert file.size == file.path.stat().st_size
    assert snapshot.digest == file.digest == digest_of_file(file.path)
    assert read_probe(file.path, 10) == PROBE
    loaded = load_file(file.path)
    assert all(torch.equal(loaded[name], tensor.bfloat16()) for name, tensor in WEIGHTS.items())
    with safe_open(file.path, framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"


def test_a_large_version_is_several_files_with_an_index(tmp_path: Path) -> None:
    snapshot = take_snapshot(1, WEIGHTS, PROBE, Staging(tmp_path, shard_bytes=2000))
    assert [one.path.name for one in snapshot.files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert [list(load_file(one.path)) for one in snapshot.files] == [["a.weight", "b"], ["c", "d"]]
    (tmp_path / "checkpoint").mkdir()
    snapshot.place_in(tmp_path / "checkpoint")
    placed = snapshot_files(tmp_path / "checkpoint")
    assert [file.name for file in placed] == [one.path.name for one in snapshot.files]
    assert digest_of_files(placed) == snapshot.digest == version_digest([one.digest for one in snapshot.files])
    index = json.loads((tmp_path / "checkpoint/model.safetensors.index.json").read_text())
    assert index["weight_map"]["c"] == "model-00002-of-00002.safetensors"


def test_a_sharded_version_loads_as_a_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = demo_model(seed=3)
    model.config.save_pretrained(tmp_path)
    snapshot = take_snapshot(1, dict(model.named_parameters()), None, Staging(None, shard_bytes=50_000))
    assert len(snapshot.files) > 2
    snapshot.place_in(tmp_path)
    loaded = dict(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).named_parameters())
    assert all(torch.equal(loaded[name], weight.bfloat16()) for name, weight in model.named_parameters())


@given(st.dictionaries(st.text("abc.", min_size=1), st.lists(st.integers(0, 9), max_size=2)), st.integers(1, 200))
def test_every_tensor_is_in_one_file_and_none_is_larger_than_it_must_be(
    shapes: dict[str, list[int]], shard_bytes: int
) -> None:
    shards = layout(shapes, shard_bytes)
    assert [name for shard in shards for name in shard] == sorted(shapes)
    for shard in shards:
        size = sum(2 * torch.Size(shapes[name]).numel() for name in shard)
        assert size <= shard_bytes or len([name for name in shard if torch.Size(shapes[name]).numel()]) == 1


def test_files_stay_as_long_as_the_snapshot(tmp_path: Path) -> None:
    snapshot = take_snapshot(1, WEIGHTS, None, Staging(tmp_path))
    (tmp_path / "kept").mkdir()
    snapshot.place_in(tmp_path / "kept")
    path, digest = snapshot.files[0].path, snapshot.digest
    assert path.is_file()
    del snapshot
    gc.collect()
    assert not path.parent.exists()
    assert digest_of_file(tmp_path / "kept/model.safetensors") == digest


def test_a_version_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    shapes = {"a": (2,), "b": (3,)}
    with SnapshotWriter(1, shapes, None, Staging(tmp_path)) as writer:
        writer.add("a", torch.ones(2))
        with pytest.raises(ValueError, match="got none for b"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "shape"), [("b", (3,)), ("a", (3,)), ("z", (2,))], ids=["order", "shape", "name"])
def test_a_tensor_that_is_not_the_one_expected_is_refused(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    shapes = {"a": (2,), "b": (3,)}
    with (
        SnapshotWriter(1, shapes, None, Staging(tmp_path)) as writer,
        pytest.raises(ValueError, match=r"expected tensor a of shape \[2\]"),
    ):
        writer.add(name, torch.ones(shape))


@pytest.mark.parametrize("shared", [False, True])
def test_what_a_killed_trainer_left_behind_is_removed(tmp_path: Path, shared: bool) -> None:
    directory = tmp_path / "shared" if shared else None
    left = Staging.open(directory, tmp_path / "a/demo", 1000)
    assert left.directory is not None
    (left.directory / "version-3-abc").mkdir()
    other = Staging.open(directory, tmp_path / "b/demo", 1000)
    again = Staging.open(directory, tmp_path / "a/demo", 1000)
    assert again.directory == left.directory
    assert other.directory is not None
    assert other.directory.is_dir()
    assert other.directory != left.directory
    assert list(left.directory.iterdir()) == []


def test_a_checkpoints_weights_are_the_same_version_and_outlive_the_checkpoint(tmp_path: Path) -> None:
    staging = Staging(tmp_path, shard_bytes=1000)
    snapshot = take_snapshot(3, {name: torch.randn(20, 20) for name in "abc"}, staging=staging)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    snapshot.place_in(checkpoint)
    adopted = Snapshot.adopt(3, {checkpoint / file.path.name: file.digest for file in snapshot.files}, staging)
    shutil.rmtree(checkpoint)
    assert adopted.identity == snapshot.identity
    assert len(adopted.files) == 3
    assert [file.path.read_bytes() for file in adopted.files] == [file.path.read_bytes() for file in snapshot.files]
