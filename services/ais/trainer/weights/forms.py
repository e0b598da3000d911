"""Quantised forms of policy versions: each is made once, for all replicas that compute with it, beside training."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open

from ais.contracts.registry import ReplicaRecord
from ais.contracts.weights.forms import (
    BF16,
    FORM_KEY,
    WIDTHS,
    Kind,
    form_of_precision,
    is_quantised,
    number_format_of,
    scale_name,
    stored,
)
from ais.contracts.weights.offer import digest_of_file
from ais.runtime.tasks import end_tasks
from ais.trainer.metrics import TrainerMetrics
from ais.trainer.weights.snapshot import Snapshot, SnapshotFile, encoded_header, value_bytes
from ais_core.numerics import Format, encode_weight

ENGINES = ("torch",)
"""Those that take quantised forms."""

logger = logging.getLogger(__name__)


def form_for(replica: ReplicaRecord) -> str:
    """The smallest form that the replica takes, as far as its record tells."""
    return form_of_precision(replica.precision) if replica.engine in ENGINES else BF16


class FormMaker:
    """Makes the forms of versions, and keeps each as long as its version."""

    def __init__(self, metrics: TrainerMetrics) -> None:
        self._metrics = metrics
        self._making: weakref.WeakKeyDictionary[Snapshot, dict[str, asyncio.Task[Snapshot | None]]] = (
            weakref.WeakKeyDictionary()
        )

    async def of(self, snapshot: Snapshot, form: str) -> Snapshot:
        """The version in `form`, once it is made, or as it is where that cannot be done."""
        if form == BF16:
            return snapshot
        making = self._making.setdefault(snapshot, {})
        if form not in making:
            making[form] = asyncio.create_task(self._make(snapshot, form), name=f"{form} of {snapshot.version}")
        return await asyncio.shield(making[form]) or snapshot

    async def close(self) -> None:
        await end_tasks(*(task for making in self._making.values() for task in making.values()))

    async def _make(self, snapshot: Snapshot, form: str) -> Snapshot | None:
        # The result of this must not hold the version, which would then never go.
        try:
            with self._metrics.weights.form_seconds.time():
                return await asyncio.to_thread(quantised, snapshot, form)
        except (OSError, SafetensorError) as error:
            logger.warning("version %d cannot be sent as %s, only as BF16: %s", snapshot.version, form, error)
            return None


def quantised(snapshot: Snapshot, form: str) -> Snapshot:
    """Writes the version in a quantised form, tensor by tensor, into files of the same names. Raises OSError."""
    assert snapshot.directory is not None
    directory = snapshot.directory.beside(f"form-{snapshot.version}-{form}-")
    files = tuple(_quantised(one.path, directory.path, form) for one in snapshot.files)
    return replace(snapshot, form=form, files=files, directory=directory)


def _quantised(source: Path, directory: Path, form: str) -> SnapshotFile:
    target = directory / source.name
    with safe_open(source, framework="pt") as opened, target.open("wb") as output:
        names = sorted(opened.keys())
        kinds = {
            part: kind
            for name in names
            for part, kind in stored(name, tuple(opened.get_slice(name).get_shape()), form).items()
        }
        begins, header = _layout(kinds, {**(opened.metadata() or {}), FORM_KEY: form})
        output.write(header)
        for name in names:
            for part, tensor in _parts(name, opened.get_tensor(name), form):
                output.seek(len(header) + begins[part])
                output.write(value_bytes(tensor))
    return SnapshotFile(target, target.stat().st_size, digest_of_file(target))


def _layout(kinds: Mapping[str, Kind], metadata: Mapping[str, str]) -> tuple[dict[str, int], bytes]:
    """Where each tensor's values begin after the header, and the header. Wide values come first: all are aligned."""
    begins: dict[str, int] = {}
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    for name, (dtype, shape) in sorted(kinds.items(), key=lambda one: (-WIDTHS[one[1].dtype], one[0])):
        end = begin + WIDTHS[dtype] * torch.Size(shape).numel()
        begins[name] = begin
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    return begins, encoded_header(entries)


def _parts(name: str, tensor: torch.Tensor, form: str) -> Iterator[tuple[str, torch.Tensor]]:
    if not is_quantised(name, form):
        yield name, tensor
        return
    encoded = encode_weight(tensor, cast(Format, number_format_of(form)), "channel")
    yield name, encoded.codes
    yield scale_name(name), encoded.scales
