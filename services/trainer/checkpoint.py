"""Checkpoints: a Hugging Face directory and a manifest, whole or not there at all.

A checkpoint is written to a temporary directory, flushed to the disk and renamed. Only after that are the groups it
covers acknowledged: when a trainer dies in between, the queue still holds them. (A trainer cannot resume yet; the
manifest is there for the day it can.)
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from services.trainer.snapshot import Snapshot

CHECKPOINTS_DIRECTORY = "checkpoints"
MODEL_DIRECTORY = "model"
"""The final policy, in the run's directory."""
MANIFEST_FILE = "manifest.json"

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


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint stands for."""

    step: int
    """Batches trained."""
    version: int
    """Policy version of the weights."""
    digest: str
    """Digest of the weights' files: `services.contracts.weights.version_digest`."""
    ordinals: tuple[int, ...]
    """Ordinals of the groups trained since the checkpoint before this one."""
    group_ids: tuple[str, ...]
    """Their group ids."""
    correction: Mapping[str, Any] | None
    """State of the correction after the step."""


class CheckpointWriter:
    """Writes the checkpoints of one run."""

    def __init__(self, run_path: Path, source_model: Path, config: PretrainedConfig, keep: int) -> None:
        """`keep`: checkpoints that stay, the newest ones."""
        self._run_path = run_path
        self._keep = keep
        self._source_model = source_model
        self._config = copy.deepcopy(config)
        self._config.dtype = torch.bfloat16

    def save(self, snapshot: Snapshot, manifest: Manifest) -> Path:
        """Writes checkpoints/step-NNNNNN and returns it; the oldest go. The same step again replaces it."""
        directory = self._run_path / CHECKPOINTS_DIRECTORY
        path = self._write(directory / f"step-{manifest.step:06d}", snapshot, manifest)
        for old in sorted(directory.glob("step-*"))[: -self._keep]:
            shutil.rmtree(old)
        return path

    def save_final(self, snapshot: Snapshot, manifest: Manifest) -> Path:
        """Writes the run's `model` directory."""
        return self._write(self._run_path / MODEL_DIRECTORY, snapshot, manifest)

    def _write(self, target: Path, snapshot: Snapshot, manifest: Manifest) -> Path:
        temporary = target.with_name(f".{target.name}.writing")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        self._config.save_pretrained(temporary)
        for name in _CARRIED_OVER:
            if (self._source_model / name).is_file():
                shutil.copyfile(self._source_model / name, temporary / name)
        snapshot.place_in(temporary)
        (temporary / MANIFEST_FILE).write_text(json.dumps(asdict(manifest), indent=1) + "\n")
        _flush([*temporary.iterdir(), temporary])
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        _flush([target.parent])
        return target


def _flush(paths: Sequence[Path]) -> None:
    """Waits until files and directory entries are on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
