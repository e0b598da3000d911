"""Reads a saved training state without running what its files ask for.

torch.distributed.checkpoint keeps its index as a pickle, and a pickle may name any function to call. Here it may name
the classes that an index of tensors is made of, and nothing else. The tensors themselves are loaded by torch's own
restricted loader (`weights_only`). So a run directory that somebody else has written can spoil training, as wrong
numbers always can, but cannot run code.
"""

from __future__ import annotations

import pickle
from enum import Enum, EnumMeta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

_ALLOWED = {
    "torch.distributed.checkpoint.metadata": (
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("PosixPath",),
    "collections": ("OrderedDict",),
}
"""Classes and functions, by module, that an index of tensors may name. dtypes are allowed beside them."""


class ForeignStateError(ValueError):
    """A training state has something in it that no state of ours has. The message says what."""


def _member(*arguments: Any) -> Enum:
    """Stands for getattr, by which Python 3.11.0 to 3.11.3 pickle a member of an enumeration."""
    match arguments:
        case (EnumMeta() as kind, str(name)) if name in kind.__members__:
            member: Enum = kind[name]
            return member
    raise ForeignStateError("its index names builtins.getattr for something that is not a member of an enumeration")


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise ForeignStateError(f"its index names {module}.{name}, which no index of tensors needs")


class StateReader(FileSystemReader):
    """torch's reader of a directory, restricted to tensors that lie in it."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        """The index. Raises ForeignStateError, and OSError when there is none."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            try:
                index = _IndexUnpickler(file).load()
            except ForeignStateError:
                raise
            except Exception as error:  # a damaged pickle raises anything
                raise ForeignStateError(f"its index cannot be read: {type(error).__name__}: {error}") from error
        if not isinstance(index, Metadata):
            raise ForeignStateError(f"its index is a {type(index).__name__}, expected Metadata")
        for name, entry in index.state_dict_metadata.items():
            if not isinstance(entry, TensorStorageMetadata):  # torch would unpickle it without restriction
                raise ForeignStateError(f"its entry {name} is not a tensor")
        for stored in (index.storage_data or {}).values():
            if Path(stored.relative_path).name != stored.relative_path:
                raise ForeignStateError(f"its index leads out of the directory, to {stored.relative_path}")
        index.storage_meta = index.storage_meta or StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index
