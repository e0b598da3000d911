"""Checkpoints are whole, loadable and made of the bytes that were published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.contracts.weights import digest_of
from services.trainer.checkpoint import CheckpointWriter, Manifest
from services.trainer.demo_model import demo_model, demo_tokenizer, save_tokenizer
from services.trainer.policy import Policy
from services.trainer.snapshot import Snapshot, take_snapshot


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    demo_model(seed=0).save_pretrained(directory)
    save_tokenizer(demo_tokenizer(), directory)
    return directory


def manifest(snapshot: Snapshot, step: int) -> Manifest:
    return Manifest(step, snapshot.version, snapshot.digest, (0, 1), ("group-0", "group-1"), {"alpha": 0.5})


def test_a_checkpoint_loads_and_generates_in_bf16(source: Path, tmp_path: Path) -> None:
    policy = Policy.load(source)
    snapshot = take_snapshot(3, policy.masters)
    writer = CheckpointWriter(tmp_path / "run", source, policy.model.config, keep=2)
    directory = writer.save(snapshot, manifest(snapshot, step=3))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    assert model.dtype == torch.bfloat16
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, policy.masters[name].bfloat16()), name
    inputs = tokenizer("12=", return_tensors="pt")
    assert model.generate(input_ids=inputs["input_ids"], max_new_tokens=2).shape[1] >= 5


def test_the_manifest_names_version_digest_and_groups(source: Path, tmp_path: Path) -> None:
    policy = Policy.load(source)
    snapshot = take_snapshot(3, policy.masters)
    directory = CheckpointWriter(tmp_path / "run", source, policy.model.config, keep=2).save(
        snapshot, manifest(snapshot, 3)
    )
    assert directory == tmp_path / "run/checkpoints/step-000003"
    written = json.loads((directory / "manifest.json").read_text())
    assert written["ordinals"] == [0, 1]
    assert written["group_ids"] == ["group-0", "group-1"]
    assert written["correction"] == {"alpha": 0.5}
    assert written["digest"] == digest_of((directory / "model.safetensors").read_bytes())


def test_a_write_that_fails_leaves_no_checkpoint(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.load(source)
    snapshot = take_snapshot(3, policy.masters)
    writer = CheckpointWriter(tmp_path / "run", source, policy.model.config, keep=2)

    def disk_is_full(snapshot: Snapshot, directory: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "place_in", disk_is_full)
        with pytest.raises(OSError, match="No space"):
            writer.save(snapshot, manifest(snapshot, 3))
    checkpoints = tmp_path / "run/checkpoints"
    assert not (checkpoints / "step-000003").exists()
    writer.save(snapshot, manifest(snapshot, 3))
    assert [path.name for path in checkpoints.iterdir()] == ["step-000003"]


def test_only_the_newest_checkpoints_stay(source: Path, tmp_path: Path) -> None:
    policy = Policy.load(source)
    snapshot = take_snapshot(3, policy.masters)
    writer = CheckpointWriter(tmp_path / "run", source, policy.model.config, keep=2)
    for step in (25, 50, 1000):
        writer.save(snapshot, manifest(snapshot, step))
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert kept == ["step-000050", "step-001000"]
