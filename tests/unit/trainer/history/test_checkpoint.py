"""Checkpoints are whole, loadable, made of the bytes that were published, and never trusted unseen."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ais.contracts.weights.offer import digest_of
from ais.runtime.process import UnavailableError
from ais.trainer.demo.demo_model import demo_model, demo_tokenizer, save_tokenizer
from ais.trainer.history.checkpoint import CheckpointStore, Manifest
from ais.trainer.policy.policy import Policy
from ais.trainer.weights.snapshot import Snapshot, take_snapshot


class Writer:
    """Saves the demo model, with a file that stands for the training state."""

    def __init__(self, directory: Path, keep: int = 3, keep_every_steps: int = 0, evaluated: int = 0) -> None:
        source = directory / "source"
        demo_model(seed=0).save_pretrained(source)
        save_tokenizer(demo_tokenizer(), source)
        self.policy = Policy.load(source)
        config = self.policy.model.config
        self.store = CheckpointStore(directory / "run", source, config, keep, keep_every_steps, evaluated)
        self.checkpoints = directory / "run/checkpoints"

    def save(self, step: int) -> Path:
        snapshot = take_snapshot(step, self.policy.masters)
        writing = self.store.begin(step)
        (writing / "training").mkdir()
        (writing / "training/state").write_bytes(b"state of %d" % step)
        manifest = Manifest(
            step=step,
            version=step,
            digest=snapshot.digest,
            incarnation=1,
            next_ordinal=2 * step,
            ordinals=(0, 1),
            group_ids=("group-0", "group-1"),
            entry_ids=("1-0", "2-0"),
            correction={"alpha": 0.1 + 0.2},
            probe_sequences=((1, 2), (3, 4, 5)),
        )
        return self.store.commit(writing, snapshot, manifest)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.iterdir())


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def test_a_checkpoint_loads_and_generates_in_bf16(writer: Writer) -> None:
    directory = writer.save(3)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    assert model.dtype == torch.bfloat16
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, writer.policy.masters[name].bfloat16()), name
    inputs = tokenizer("12=", return_tensors="pt")
    assert model.generate(input_ids=inputs["input_ids"], max_new_tokens=2).shape[1] >= 5


def test_what_is_read_is_what_was_written(writer: Writer) -> None:
    directory = writer.save(3)
    checkpoint = writer.store.newest()
    assert checkpoint is not None
    assert checkpoint.path == directory == writer.checkpoints / "step-000003"
    manifest = checkpoint.manifest
    assert (manifest.step, manifest.next_ordinal, manifest.entry_ids) == (3, 6, ("1-0", "2-0"))
    assert manifest.correction == {"alpha": 0.1 + 0.2}
    assert manifest.probe_sequences == ((1, 2), (3, 4, 5))
    assert manifest.digest == digest_of((directory / "model.safetensors").read_bytes())
    assert set(manifest.files) == {
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    } - {"manifest.json"}


def test_latest_points_to_the_newest(writer: Writer) -> None:
    for step in (2, 10):
        writer.save(step)
        assert (writer.checkpoints / "latest").resolve().name == f"step-{step:06d}"


def test_a_write_that_fails_leaves_no_checkpoint(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_is_full(snapshot: Snapshot, directory: Path) -> None:
        raise OSError(28, "No space left on device")

    writer.save(2)
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "place_in", disk_is_full)
        with pytest.raises(OSError, match="No space"):
            writer.save(3)
    checkpoint = writer.store.newest()
    assert checkpoint is not None
    assert checkpoint.manifest.step == 2
    writer.save(3)
    assert writer.names() == ["latest", "step-000002", "step-000003"]


@pytest.mark.parametrize("file", ["model.safetensors", "training/state", "config.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_checkpoint_is_set_aside_loudly_and_the_one_before_is_taken(
    writer: Writer, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    writer.save(2)
    path = writer.save(4) / file
    content = path.read_bytes()
    match damage:
        case "flipped":
            path.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:] if len(content) > 10 else b"x")
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "missing":
            path.unlink()
    checkpoint = writer.store.newest()
    assert checkpoint is not None
    assert checkpoint.manifest.step == 2
    assert "damaged-step-000004" in writer.names()
    (said,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert str(path.name) in said.getMessage()


def test_when_no_checkpoint_is_whole_training_does_not_begin_anew_by_itself(writer: Writer) -> None:
    for step in (2, 4):
        (writer.save(step) / "training/state").unlink()
    with pytest.raises(UnavailableError, match="all 2 checkpoints"):
        writer.store.newest()


def test_the_newest_stay_and_so_do_those_at_the_multiples_asked_for(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=2, keep_every_steps=50)
    for step in (25, 50, 75, 100, 125):
        writer.save(step)
    assert writer.names() == ["latest", "step-000050", "step-000100", "step-000125"]


def test_only_the_newest_two_keep_the_state_of_training(writer: Writer) -> None:
    for step in (1, 2, 3):
        writer.save(step)
    kept = [name for name in writer.names() if (writer.checkpoints / name / "training").is_dir()]
    assert kept == ["latest", "step-000002", "step-000003"]


def test_the_manifest_is_json_that_names_the_groups(writer: Writer) -> None:
    written = json.loads((writer.save(3) / "manifest.json").read_text())
    assert written["group_ids"] == ["group-0", "group-1"]


def test_an_old_checkpoint_that_is_a_link_goes_as_a_link_and_what_it_leads_to_stays(writer: Writer) -> None:
    moved = writer.save(1).rename(writer.checkpoints.parent / "elsewhere")
    (writer.checkpoints / "step-000001").symlink_to(moved)
    for step in (2, 3, 4):
        writer.save(step)
    assert writer.names() == ["latest", "step-000002", "step-000003", "step-000004"]
    assert (moved / "training/state").is_file()


@pytest.mark.parametrize("kind", ["link to a directory", "dangling link", "file"])
@pytest.mark.parametrize("name", [".step-000002.writing", "step-000002", "damaged-step-000002"])
def test_what_stands_where_a_checkpoint_is_to_be_written_is_not_followed(
    writer: Writer, name: str, kind: str, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious").touch()
    writer.checkpoints.mkdir(parents=True)
    place = writer.checkpoints / name
    match kind:
        case "link to a directory":
            place.symlink_to(foreign)
        case "dangling link":
            place.symlink_to(tmp_path / "nowhere")
        case "file":
            place.touch()
    path = writer.save(2)
    (path / "training/state").unlink()
    with pytest.raises(UnavailableError):  # it is damaged, and set aside
        writer.store.newest()
    assert (writer.checkpoints / "damaged-step-000002/model.safetensors").is_file()
    assert (foreign / "precious").is_file()


def test_an_old_checkpoint_that_cannot_be_removed_stays_and_the_new_one_is_committed(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def not_permitted(path: Path, ignore_errors: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    for step in (1, 2, 3):
        writer.save(step)
    monkeypatch.setattr("shutil.rmtree", not_permitted)
    writer.save(4)
    assert writer.names()[:2] == ["latest", "step-000001"]
    assert (writer.checkpoints / "latest").resolve().name == "step-000004"
    assert "step-000001" in caplog.text


def test_the_best_checkpoint_stays_and_has_a_link_also_where_it_is_written_after_its_evaluation(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=2)
    writer.store.keep_best(1, evaluated=1)
    for step in range(1, 5):
        writer.save(step)
    assert writer.names() == ["best", "latest", "step-000001", "step-000003", "step-000004"]
    assert (writer.checkpoints / "best").readlink() == Path("step-000001")
    writer.store.keep_best(4, evaluated=4)
    writer.save(5)
    assert writer.names() == ["best", "latest", "step-000004", "step-000005"]
    assert (writer.checkpoints / "best").readlink() == Path("step-000004")


def test_a_checkpoint_that_is_still_evaluated_stays(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=2, evaluated=2)
    for step in range(1, 6):
        writer.save(step)
    assert writer.names() == ["latest", "step-000002", "step-000004", "step-000005"]
    writer.store.keep_best(0, evaluated=4)
    writer.save(6)
    assert writer.names() == ["latest", "step-000005", "step-000006"]
