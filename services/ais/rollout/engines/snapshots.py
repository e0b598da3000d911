"""Model directories and pushed snapshots on disk: which files, what they hash to, whether every tensor is right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from ais.contracts.weights.forms import BF16, FORM_KEY, Kind, stored, weight_name
from ais.contracts.weights.offer import INDEX_FILE, SINGLE_FILE, digest_of_file, version_digest
from ais.contracts.weights.refusal import WeightsRefusedError
from ais.rollout.engine import ModelUnsupportedError

if TYPE_CHECKING:  # torch is loaded where tensors are read, which not every engine does
    from torch import Tensor

DTYPES = ("BF16", "F16", "F32")
"""Dtypes a snapshot in BF16 may have, by safetensors' names; everything is rounded to BF16 before anything else."""
TIED_HEAD = "lm_head.weight"
"""Where embeddings are tied, some writers repeat them under this name; it is passed over."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name and shape of every tensor of a snapshot, by Hugging Face's names."""


def snapshot_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory, in order. Raises ModelUnsupportedError when there are none."""
    index = directory / INDEX_FILE
    if index.is_file():
        try:
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = sorted({directory / name for name in named.values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelUnsupportedError(f"{index} has no weight_map that can be read: {error!r}") from error
        if missing := [file for file in files if not file.is_file()]:
            raise ModelUnsupportedError(f"{missing[0]} is missing: {INDEX_FILE} names it")
        return files
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
            with safe_open(file, framework="numpy") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelUnsupportedError(f"{file} is not a safetensors file: {error}") from error
    if tied_embeddings:
        shapes.pop(TIED_HEAD, None)
    return shapes


def form_of(files: Sequence[Path]) -> str:
    """The form of a snapshot, as its first file says. Raises WeightsRefusedError."""
    try:
        with safe_open(files[0], framework="numpy") as opened:
            metadata: Mapping[str, str] = opened.metadata() or {}
    except SafetensorError as error:
        raise WeightsRefusedError("snapshot", f"expected a safetensors file: {error}") from error
    return metadata.get(FORM_KEY, BF16)


def checked_tensors(
    files: Sequence[Path], shapes: Shapes, tied_embeddings: bool, form: str = BF16
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a snapshot, one by one: as bf16, or where its form is quantised, codes and float32 scales.

    Names, shapes and dtypes are checked from the headers before any value is read. Raises WeightsRefusedError for the
    first thing that is wrong.
    """
    expected = {part: kind for name, shape in shapes.items() for part, kind in stored(name, shape, form).items()}
    found: dict[str, Path] = {}
    for file in files:
        found |= dict.fromkeys(_checked_names(file, expected, tied_embeddings, form), file)
    if missing := sorted(expected.keys() - found.keys()):
        raise WeightsRefusedError(missing[0], f"expected {len(expected)} tensors, got none for {len(missing)} of them")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in (name for name, where in found.items() if where == file):
                tensor = opened.get_tensor(name)
                tensor = tensor.bfloat16() if expected[name].dtype == "BF16" else tensor
                _check_values(name, tensor, scales=expected[name].dtype == "F32")
                yield name, tensor


def _check_values(name: str, tensor: Tensor, scales: bool) -> None:
    import torch

    # FP8 tensors can do little but be converted.
    if not torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all():
        raise WeightsRefusedError(name, "expected finite values, got NaN or infinity")
    if scales and not (tensor > 0).all():
        raise WeightsRefusedError(name, f"expected scales above 0, got {float(tensor.min()):g}")


def _checked_names(file: Path, expected: Mapping[str, Kind], tied_embeddings: bool, form: str) -> list[str]:
    names = []
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # not a mapping
                if tied_embeddings and weight_name(name) == TIED_HEAD:
                    continue
                if name not in expected:
                    raise WeightsRefusedError(name, "expected a tensor of this model, got an unknown name")
                header = opened.get_slice(name)
                shape, dtype = tuple(header.get_shape()), header.get_dtype()
                if shape != expected[name].shape:
                    wanted = list(expected[name].shape)
                    raise WeightsRefusedError(name, f"expected shape {wanted}, got {list(shape)}")
                dtypes = DTYPES if form == BF16 else (expected[name].dtype,)
                if dtype not in dtypes:
                    raise WeightsRefusedError(name, f"expected dtype {', '.join(dtypes)}, got {dtype}")
                names.append(name)
    except SafetensorError as error:
        raise WeightsRefusedError("snapshot", f"expected a safetensors file: {error}") from error
    return names
