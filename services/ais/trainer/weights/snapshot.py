"""One policy version as files: what replicas are sent and what a checkpoint keeps, bit for bit the same.

Tensors are written one at a time, as BF16, into safetensors files of bounded size: no more than one is ever copied
here. Names are sorted and the header is written here, so equal weights with equal probes are equal bytes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import IO

import torch

from ais.contracts.weights.forms import BF16
from ais.contracts.weights.offer import INDEX_FILE, DigestBuilder, Identity, digest_of, shard_name, version_digest
from ais.contracts.weights.probe import PROBE_KEY, Probe, encode_probe
from ais.runtime.owned_directory import OwnedDirectory

SHARD_BYTES = 1 << 30
"""Files are begun anew beyond this size, unless said otherwise."""
ADAPTER_DIRECTORY = "adapter"
"""A peft directory, in a version's or a checkpoint's. Beside the merged weights transformers would apply it again."""
VALUE_BYTES = 2
"""Bytes of a BF16 value."""
_ALIGNMENT = 8
"""Bytes that the values of a safetensors file are aligned to."""

Shape = Sequence[int]


@dataclass(frozen=True)
class SnapshotFile:
    """One file of a snapshot."""

    path: Path
    size: int
    """Bytes."""
    digest: str
    """`blake3:<hex>`."""


@dataclass(frozen=True)
class Snapshot:
    """An immutable policy version. Its files stay as long as the object or a copy of it does, and go with it."""

    version: int
    digest: str
    """For one BF16 file, its digest; for several, the digest of their digests, in order."""
    files: tuple[SnapshotFile, ...]
    """Safetensors files of BF16 tensors, which `transformers` loads; the first has the probe in its metadata."""
    directory: OwnedDirectory | None = field(default=None, repr=False, compare=False)
    """Where the files lie. None: there are none, as on ranks that only know the version."""
    form: str = BF16
    """Another one than BF16 has codes and scales in the place of some tensors: `ais.contracts.weights.forms`."""

    @property
    def identity(self) -> Identity:
        return self.version, self.digest

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def adapter(self) -> Path:
        """Where the version's adapter lies, as a peft directory, if it has one."""
        assert self.directory is not None
        return self.directory.path / ADAPTER_DIRECTORY

    @classmethod
    def adopt(cls, version: int, files: Mapping[Path, str], staging: Staging) -> Snapshot:
        """The version that a checkpoint's `files` (with their digests, in order) are; they may be deleted there."""
        directory = OwnedDirectory(f"version-{version}-", staging.directory)
        source = next(iter(files)).parent
        for path in [*files, source / INDEX_FILE]:
            if path.is_file():
                _link(path, directory.path / path.name)
        _link_all(source / ADAPTER_DIRECTORY, directory.path / ADAPTER_DIRECTORY)
        adopted = [
            SnapshotFile(directory.path / path.name, path.stat().st_size, digest) for path, digest in files.items()
        ]
        return _made(version, adopted, directory)

    def place_in(self, directory: Path) -> None:
        """Puts the weights of a Hugging Face directory there, and the adapter's if there is one: hard links, or copies
        on another file system."""
        source = self.files[0].path.parent
        for name in [*(file.path.name for file in self.files), INDEX_FILE]:
            if (source / name).is_file():
                _link(source / name, directory / name)
        _link_all(source / ADAPTER_DIRECTORY, directory / ADAPTER_DIRECTORY)


@dataclass(frozen=True)
class Staging:
    """Where snapshots are written, and how large their files may get."""

    directory: Path | None = None
    """None: the system's directory for temporary files."""
    shard_bytes: int = SHARD_BYTES

    @classmethod
    def open(cls, directory: Path | None, run_path: Path, shard_bytes: int) -> Staging:
        """The run's own staging directory, emptied of what an earlier trainer left that was killed.

        In `directory` it is named after the run's path: two runs of one name on a machine are not the same.
        """
        if directory is None:
            own = run_path / "staging"
        else:
            own = directory / f"ais-{run_path.name}-{digest_of(str(run_path.resolve()).encode())[7:15]}"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        return cls(own, shard_bytes)


def layout(shapes: Mapping[str, Shape], shard_bytes: int = SHARD_BYTES) -> list[list[str]]:
    """The tensors of each file, in the order in which they are written: names sorted, a file filled before the next.

    A tensor larger than `shard_bytes` has a file of its own.
    """
    shards: list[list[str]] = []
    room = -1
    for name in sorted(shapes):
        size = math.prod(shapes[name]) * VALUE_BYTES
        if size > room:
            shards.append([])
            room = max(shard_bytes, size)
        shards[-1].append(name)
        room -= size
    return shards


class SnapshotWriter:
    """Writes one version, tensor by tensor, in the order of their sorted names.

    An instance that is not finished leaves nothing when it is closed: use it in a `with`.
    """

    def __init__(
        self, version: int, shapes: Mapping[str, Shape], probe: Probe | None = None, staging: Staging | None = None
    ) -> None:
        """`shapes` has the shape of every tensor that will be added."""
        staging = staging or Staging()
        self._version = version
        self._shapes = shapes
        self._probe = probe
        self._shards = layout(shapes, staging.shard_bytes)
        self._expected = iter(sorted(shapes))
        self._directory = OwnedDirectory(f"version-{version}-", staging.directory)
        self._written: list[SnapshotFile] = []
        self._file: IO[bytes] | RawIOBase | None = None
        self._left: list[str] = []
        self._digest = DigestBuilder()

    def __enter__(self) -> SnapshotWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._left or len(self._written) < len(self._shards):
            self._directory.remove()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Rounds the next tensor to BF16 and writes it. Raises ValueError when it is not the one expected."""
        expected = next(self._expected, None)
        if name != expected or tuple(tensor.shape) != tuple(self._shapes[name]):
            shape = list(self._shapes[expected]) if expected else None
            raise ValueError(f"expected tensor {expected} of shape {shape}, got {name} of {list(tensor.shape)}")
        if not self._left:
            self._begin()
        self._write(value_bytes(tensor.detach().to("cpu", torch.bfloat16)))
        self._left.pop(0)
        if not self._left:
            self._end()

    def finish(self) -> Snapshot:
        """Raises ValueError when tensors are missing."""
        if (missing := next(self._expected, None)) is not None:
            raise ValueError(f"expected every tensor before the end, got none for {missing}")
        if len(self._shards) > 1:
            (self._directory.path / INDEX_FILE).write_text(self._index(), encoding="utf-8")
        return _made(self._version, self._written, self._directory)

    def _begin(self) -> None:
        number = len(self._written)
        self._left = list(self._shards[number])
        path = self._directory.path / shard_name(number + 1, len(self._shards))
        self._file = path.open("wb", buffering=0)
        self._digest = DigestBuilder()
        probe = self._probe if number == 0 else None
        self._write(memoryview(header({name: self._shapes[name] for name in self._left}, probe)))

    def _write(self, content: memoryview) -> None:
        assert self._file is not None
        self._digest.update(content)
        while content:
            content = content[self._file.write(content) :]

    def _end(self) -> None:
        assert self._file is not None
        size = self._file.tell()
        self._file.close()
        self._file = None
        path = self._directory.path / shard_name(len(self._written) + 1, len(self._shards))
        self._written.append(SnapshotFile(path, size, self._digest.result()))

    def _index(self) -> str:
        total = sum(math.prod(shape) for shape in self._shapes.values()) * VALUE_BYTES
        files = zip(self._shards, self._written, strict=True)
        weight_map = {name: file.path.name for names, file in files for name in names}
        return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1, sort_keys=True)


def _made(version: int, files: Sequence[SnapshotFile], directory: OwnedDirectory) -> Snapshot:
    return Snapshot(version, version_digest([file.digest for file in files]), tuple(files), directory)


def take_snapshot(
    version: int,
    weights: Mapping[str, torch.Tensor],
    probe: Probe | None = None,
    staging: Staging | None = None,
) -> Snapshot:
    """Writes whole tensors that are all at hand."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    return write_snapshot(version, shapes, ((name, weights[name]) for name in sorted(weights)), probe, staging)


def write_snapshot(
    version: int,
    shapes: Mapping[str, Shape],
    tensors: Iterable[tuple[str, torch.Tensor]],
    probe: Probe | None = None,
    staging: Staging | None = None,
) -> Snapshot:
    """Writes tensors that are made one at a time, in the order of their sorted names. Raises ValueError."""
    with SnapshotWriter(version, shapes, probe, staging) as writer:
        for name, tensor in tensors:
            writer.add(name, tensor)
        return writer.finish()


def header(shapes: Mapping[str, Shape], probe: Probe | None) -> bytes:
    """What a safetensors file of these BF16 tensors, in this order, begins with."""
    metadata = {"format": "pt"} | ({} if probe is None else {PROBE_KEY: encode_probe(probe)})
    entries: dict[str, object] = {"__metadata__": metadata}
    begin = 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape) * VALUE_BYTES
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    return encoded_header(entries)


def encoded_header(entries: Mapping[str, object]) -> bytes:
    """A safetensors header with its length, the values after it aligned."""
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return len(encoded).to_bytes(8, "little") + encoded


def value_bytes(tensor: torch.Tensor) -> memoryview:
    """The values of a tensor in the processor's memory, as a file has them."""
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]


def _link_all(source: Path, target: Path) -> None:
    """Does nothing where `source` is no directory."""
    for path in source.glob("*"):
        target.mkdir(exist_ok=True)
        _link(path, target / path.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
