"""Safetensors files that come in: versions, and adapters."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from ais.contracts.trajectory import MalformedRecordError
from ais.contracts.weights.adapter import CONFIG_FILE, WEIGHTS_FILE, apply_adapter, encode_adapter, factor_names
from ais.contracts.weights.delta_blocks import DeltaError
from ais.contracts.weights.offer import digest_of
from ais.contracts.weights.probe import read_probe
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.rollout.engines.snapshots import checked_tensors, form_of
from benchmarks.fuzz.target import Target, Targets
from benchmarks.fuzz.targets.weights import (
    BASE,
    DIRECTORY,
    INPUT,
    NEW_CONTENT,
    OLD_CONTENT,
    OUTPUT,
    SHAPES,
    VOCABULARY,
)

ADAPTED = "model.layers.0.mlp.up_proj.weight"


def read_snapshot(content: bytes) -> None:
    """As a replica looks into a version whose digests were right."""
    INPUT.write_bytes(content)
    form = form_of([INPUT])
    for name, tensor in checked_tensors([INPUT], SHAPES, tied_embeddings=True, form=form):
        assert tuple(tensor.shape) == SHAPES[name]
    read_probe(INPUT, VOCABULARY)


def read_adapter(content: bytes) -> None:
    INPUT.write_bytes(content)
    apply_adapter([BASE], INPUT, OUTPUT, len(OLD_CONTENT), digest_of(OLD_CONTENT))
    assert OUTPUT.read_bytes() == OLD_CONTENT


def _adapter() -> bytes:
    """What is sent of an adapter of rank 2 that changes nothing."""
    (a, b), (out, width), directory = factor_names(ADAPTED), SHAPES[ADAPTED], DIRECTORY / "adapter"
    directory.mkdir()
    save_file({a: torch.zeros(2, width), b: torch.ones(out, 2)}, directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(json.dumps({"lora_alpha": 4, "r": 2}), encoding="utf-8")
    encode_adapter(directory, BASE, INPUT)
    return INPUT.read_bytes()


TARGETS: Targets = {
    "snapshot": Target(read_snapshot, (WeightsRefusedError, MalformedRecordError), (OLD_CONTENT, NEW_CONTENT)),
    "adapter": Target(read_adapter, (DeltaError,), (_adapter(),)),
}
