"""Who samples, as one JSON object in `fleet.json` of the run's directory. For people: nothing is computed from it.

Its keys: time (Unix seconds), version (the policy's) and replicas. Each of these has replica_id, engine, precision,
version (that it serves), ready (whether it accepts work), slots, running and waiting (sequences); where that version
came with a probe, probe_gap and probe_allowed (nats a token); and where tokens of the last batch are its own, tokens
and log_ratio_abs_mean (nats).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ais.contracts.registry import ReplicaRecord
from ais.runtime.files import replace_file
from ais.trainer.mismatch import ReplicaMismatch

FLEET_FILE = "fleet.json"
WRITE_SECONDS = 1.0
"""Between two writes, at least."""

logger = logging.getLogger(__name__)


class FleetFile:
    """Keeps the file up to date."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FLEET_FILE
        self._measured: Mapping[str, ReplicaMismatch] = {}
        self._written = 0.0
        self._held: tuple[Sequence[ReplicaRecord], int] | None = None
        """What came too soon after a write."""
        self._fails = False

    def measured(self, by_replica: Mapping[tuple[str, str], ReplicaMismatch]) -> None:
        """The last batch's mismatch, by replica and precision."""
        self._measured = {replica: mismatch for (replica, _precision), mismatch in by_replica.items()}

    async def show(self, records: Sequence[ReplicaRecord], version: int) -> None:
        """Writes it, unless it has just been written. A disk that takes nothing is told once, and nothing is lost."""
        if time.monotonic() - self._written < WRITE_SECONDS:
            self._held = records, version
        else:
            await self._write(records, version)

    async def end(self) -> None:
        """Writes what was last shown, if it is not written: the file stays as the trainer leaves it."""
        if self._held is not None:
            await self._write(*self._held)

    async def _write(self, records: Sequence[ReplicaRecord], version: int) -> None:
        self._written, self._held = time.monotonic(), None
        fleet = {"time": time.time(), "version": version, "replicas": list(map(self._line, records))}
        try:
            await asyncio.to_thread(replace_file, self._path, json.dumps(fleet) + "\n")
        except OSError as error:
            if not self._fails:
                logger.warning("%s cannot be written: %s", self._path, error.strerror)
            self._fails = True

    def _line(self, record: ReplicaRecord) -> dict[str, Any]:
        return {
            "replica_id": record.replica_id,
            "engine": record.engine,
            "precision": str(record.precision),
            "version": record.policy_version,
            "ready": record.ready,
            "slots": record.slots,
            "running": record.running_sequences,
            "waiting": record.waiting_sequences,
            **dict(_probe(record)),
            **dict(_mismatch(self._measured.get(record.replica_id))),
        }


def _probe(record: ReplicaRecord) -> Iterator[tuple[str, float]]:
    if record.probe_gap is not None and record.probe_allowed is not None:
        yield "probe_gap", record.probe_gap
        yield "probe_allowed", record.probe_allowed


def _mismatch(found: ReplicaMismatch | None) -> Iterator[tuple[str, float]]:
    if found is not None:
        yield "tokens", found.tokens
        yield "log_ratio_abs_mean", found.log_ratio_abs_mean
