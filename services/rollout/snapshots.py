"""Model directories and pushed snapshots on disk: which files, what they hash to, whether every tensor is right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from services.contracts.weights import INDEX_FILE, SINGLE_FILE, digest_of_file, version_digest
from services.rollout.engine import ModelUnsupportedError, WeightsRejectedError

DTYPES = ("BF16", "F16", "F32")
"""Dtypes a snapshot may have, by safetensors' names; everything is rounded to BF16 before anything else."""
TIED_HEAD = "lm_head.weight"
"""Where embeddings are tied, some writers repeat them under this name; it is passed over."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name and shape of every tensor of a snapshot, by Hugging Face's names."""


def snapshot_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory, in order. Raises ModelUnsupportedError when there are none."""
    index = directory / INDEX_FILE
    if index.is_file():
        return sorted({directory / name for name in json.loads(index.read_text())["weight_map"].values()})
    single = directory / SINGLE_FILE
    if not single.is_file():
        raise ModelUnsupportedError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}")
    return [single]


def digest_of_files(files: Sequence[Path]) -> str:
    """Digest of a snapshot on disk: the one a push of these files would carry."""
    return version_digest([digest_of_file(file) for file in files])


def tensor_shapes(files: list[Path], tied_embeddings: bool) -> dict[str, tuple[int, ...]]:
    """What a model directory's own files hold, read from their headers. Raises ModelUnsupportedError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelUnsupportedError(f"{file} is not a safetensors file: {error}") from error
    if tied_embeddings:
        shapes.pop(TIED_HEAD, None)
    return shapes


def checked_tensors(files: Sequence[Path], shapes: Shapes, tied_embeddings: bool) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a snapshot as bf16, one by one. Raises WeightsRejectedError for the first thing that is wrong.

    Names, shapes and dtypes are checked from the headers before any value is read.
    """
    found: dict[str, Path] = {}
    for file in files:
        found |= dict.fromkeys(_checked_names(file, shapes, tied_embeddings), file)
    if missing := sorted(shapes.keys() - found.keys()):
        raise WeightsRejectedError(missing[0], f"{len(shapes)} tensors", f"{len(missing)} of them missing")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in (name for name, where in found.items() if where == file):
                tensor = opened.get_tensor(name).bfloat16()
                if not torch.isfinite(tensor).all():
                    raise WeightsRejectedError(name, "finite values", "NaN or infinity")
                yield name, tensor


def stop_token_ids(directory: Path, config: Any) -> tuple[int, ...]:
    """A model's own end-of-sequence tokens: of its generation_config.json, else of its `config`."""
    generation = directory / "generation_config.json"
    declared = json.loads(generation.read_text()).get("eos_token_id") if generation.is_file() else None
    if declared is None:
        declared = config.eos_token_id
    if declared is None:
        return ()
    return tuple(declared) if isinstance(declared, list) else (int(declared),)


def _checked_names(file: Path, shapes: Shapes, tied_embeddings: bool) -> list[str]:
    names = []
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # not a mapping
                if tied_embeddings and name == TIED_HEAD:
                    continue
                if name not in shapes:
                    raise WeightsRejectedError(name, "a tensor of this model", "an unknown name")
                header = opened.get_slice(name)
                shape, dtype = tuple(header.get_shape()), header.get_dtype()
                if shape != shapes[name]:
                    raise WeightsRejectedError(name, f"shape {list(shapes[name])}", f"shape {list(shape)}")
                if dtype not in DTYPES:
                    raise WeightsRejectedError(name, f"dtype {', '.join(DTYPES)}", f"dtype {dtype}")
                names.append(name)
    except SafetensorError as error:
        raise WeightsRejectedError("snapshot", "a safetensors file", str(error)) from error
    return names
