"""Writes and reads checkpoints: a Hugging Face directory with the training state and a manifest, whole or not at all.

A checkpoint is written to another directory, flushed to the disk and renamed; the rename is the commit. The groups that
it covers are acknowledged with the next commit, so when the newest checkpoint turns out to be damaged, the queue still
holds what came after the one before.

Training can resume from the newest two. Older ones stay as models, to look at and to evaluate.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from transformers import PretrainedConfig

from ais.contracts.weights.offer import digest_of_file
from ais.runtime.files import flush_to_disk, replace_link
from ais.runtime.process import UnavailableError
from ais.trainer.weights.snapshot import Snapshot

CHECKPOINTS_DIRECTORY = "checkpoints"
LATEST = "latest"
"""Link to the newest checkpoint."""
BEST = "best"
"""Link to the best one of those that were evaluated."""
MODEL_DIRECTORY = "model"
"""The final policy, in the run's directory."""
MANIFEST_FILE = "manifest.json"
TRAINING_DIRECTORY = "training"
"""State of training, in a checkpoint."""
RESUMABLE = 2
"""Newest checkpoints that keep the state of training, which takes six times as much as the weights."""

_CARRIED_OVER = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files of the source model that training does not change."""

logger = logging.getLogger(__name__)


class DamagedCheckpointError(Exception):
    """A checkpoint is not what was written. The message names the file."""


@dataclass(frozen=True)
class Manifest:
    """Describes a checkpoint, and how training goes on from it."""

    step: int
    """Batches trained."""
    version: int
    """Policy version of the weights."""
    digest: str
    """Digest of the weights' files: `ais.contracts.weights.offer.version_digest`."""
    incarnation: int
    """The trainer that wrote it."""
    next_ordinal: int
    """The first ordinal that is not trained."""
    ordinals: tuple[int, ...]
    """Ordinals of the groups trained since the checkpoint before this one."""
    group_ids: tuple[str, ...]
    """Their group ids."""
    entry_ids: tuple[str, ...]
    """Their queue entries, which are acknowledged with the checkpoint after this one."""
    correction: dict[str, Any] | None
    """State of the correction after the step."""
    probe_sequences: tuple[tuple[int, ...], ...] | None
    """The sequences that every version is probed with."""
    frozen: Mapping[str, str] = field(default_factory=dict)
    """Digests of models that training reads and does not change, by their paths."""
    early_stop: str = ""
    """In the final model of a run that ended before its last step: why."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Digest of every other file of the checkpoint, by its path in it."""


_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been verified."""

    path: Path
    manifest: Manifest

    @property
    def weights(self) -> dict[Path, str]:
        """The weights' files, in order, with their digests as they are published."""
        names = sorted(name for name in self.manifest.files if "/" not in name and name.endswith(".safetensors"))
        return {self.path / name: self.manifest.files[name] for name in names}

    @property
    def training(self) -> Path:
        return self.path / TRAINING_DIRECTORY


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(
        self,
        run_path: Path,
        source_model: Path,
        config: PretrainedConfig,
        keep: int,
        keep_every_steps: int = 0,
        evaluated_every: int = 0,
    ) -> None:
        """`keep`: newest checkpoints that stay. `keep_every_steps`: those at its multiples stay too; 0: none.
        `evaluated_every`: those at its multiples stay until they are evaluated."""
        self._run_path = run_path
        self._directory = run_path / CHECKPOINTS_DIRECTORY
        self._keep = keep
        self._keep_every_steps = keep_every_steps
        self._source_model = source_model
        self._config = copy.deepcopy(config)
        self._config.dtype = torch.bfloat16
        self._evaluated_every = evaluated_every
        self._best: int | None = None
        self._evaluated = -1

    def begin(self, step: int) -> Path:
        """Makes an empty directory for the checkpoint of `step`. The caller fills its `training`."""
        return _fresh(self._directory / _name(step))

    def commit(self, writing: Path, snapshot: Snapshot, manifest: Manifest) -> Path:
        """Completes what `begin` began and puts it in its place, over one of the same step. Removes the oldest."""
        target = self._directory / _name(manifest.step)
        self._publish(writing, target, snapshot, manifest)
        replace_link(self._directory / LATEST, target.name)
        self._link_best()
        self._prune()
        return target

    def save_final(self, snapshot: Snapshot, manifest: Manifest) -> Path:
        """Writes the run's `model` directory."""
        target = self._run_path / MODEL_DIRECTORY
        self._publish(_fresh(target), target, snapshot, manifest)
        return target

    def keep_best(self, step: int | None, evaluated: int) -> None:
        """`step` is the best of those evaluated, the last of which is `evaluated`: it stays, and `best` leads to it."""
        self._best, self._evaluated = step, evaluated
        self._link_best()

    def newest(self) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole, None if there was never one. Sets damaged ones aside, loudly.

        Raises UnavailableError when there are checkpoints and none is whole.
        """
        candidates = [path for _step, path in reversed(self._numbered()) if (path / TRAINING_DIRECTORY).is_dir()]
        for path in candidates:
            try:
                return Checkpoint(path, verified(path))
            except DamagedCheckpointError as error:
                aside = path.with_name(f"damaged-{path.name}")
                _remove(aside)
                path.rename(aside)
                logger.critical(
                    "CHECKPOINT DAMAGED: %s. It is set aside as %s; training goes on from the one before, and trains "
                    "again what came after.",
                    error,
                    aside,
                )
        if candidates:
            raise UnavailableError(
                f"all {len(candidates)} checkpoints in {self._directory} that training could go on from are damaged. "
                "Remove the run's directory and Redis keys to begin again, or start another run from an older model."
            )
        return None

    def _publish(self, writing: Path, target: Path, snapshot: Snapshot, manifest: Manifest) -> None:
        self._config.save_pretrained(writing)
        for name in _CARRIED_OVER:
            if (self._source_model / name).is_file():
                shutil.copyfile(self._source_model / name, writing / name)
        snapshot.place_in(writing)
        files = {str(path.relative_to(writing)): digest_of_file(path) for path in sorted(_files(writing))}
        complete = {**asdict(manifest), "files": files}
        (writing / MANIFEST_FILE).write_text(json.dumps(complete, indent=1) + "\n", encoding="utf-8")
        flush_to_disk([*writing.rglob("*"), writing])
        _remove(target)
        writing.rename(target)
        flush_to_disk([target.parent])

    def _prune(self) -> None:
        """Removes what is not kept. What cannot be removed stays: the checkpoint that was just written is whole."""
        numbered = self._numbered()
        surplus = [
            path
            for step, path in numbered[: -self._keep]
            if not (self._keep_every_steps and step % self._keep_every_steps == 0) and not self._may_be_the_best(step)
        ]
        # A checkpoint that somebody has moved away and linked keeps everything: its content is not ours to delete.
        surplus += [path / TRAINING_DIRECTORY for _step, path in numbered[:-RESUMABLE] if not path.is_symlink()]
        for path in surplus:
            try:
                _remove(path)
            except OSError as error:
                logger.warning("an old checkpoint cannot be removed: %s", error, extra={"path": str(path)})

    def _link_best(self) -> None:
        """An evaluation may end before the checkpoint of its step is written, and then this comes again."""
        link = self._directory / BEST
        if self._best is not None and (target := self._directory / _name(self._best)).is_dir():
            replace_link(link, target.name)
        elif link.is_symlink():
            link.unlink()

    def _may_be_the_best(self, step: int) -> bool:
        awaited = self._evaluated_every > 0 and step % self._evaluated_every == 0 and step > self._evaluated
        return step == self._best or awaited

    def _numbered(self) -> list[tuple[int, Path]]:
        """Steps and directories of whole checkpoints, by rising step."""
        found = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in self._directory.glob("step-*"))
        return sorted((int(match.group(1)), path) for match, path in found if match and path.is_dir())


def verified(path: Path) -> Manifest:
    """Returns the manifest of a checkpoint. Raises DamagedCheckpointError unless every file is as it was written."""
    try:
        manifest = _MANIFEST.validate_json((path / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path / MANIFEST_FILE} cannot be read: {error}") from error
    for name, digest in manifest.files.items():
        try:
            found = digest_of_file(path / name)
        except OSError as error:
            raise DamagedCheckpointError(f"{path / name} cannot be read: {error}") from error
        if found != digest:
            raise DamagedCheckpointError(f"{path / name} has digest {found}, written was {digest}")
    return manifest


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _fresh(target: Path) -> Path:
    """Makes an empty directory beside `target`, for its successor."""
    writing = target.with_name(f".{target.name}.writing")
    _remove(writing)
    writing.mkdir(parents=True)
    return writing


def _remove(path: Path) -> None:
    """Removes a directory with its content, a file, or a link but not what it leads to; does nothing without one."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())
