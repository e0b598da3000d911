"""Recorded groups in a file: ScoredGroup messages as the queue holds them, each preceded by its length as four bytes,
little endian."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ais.contracts.trajectory import MalformedRecordError, ScoredGroup, TrajectoryBounds, decode_group

_LENGTH_BYTES = 4


def framed(payload: bytes) -> bytes:
    """One encoded group as it stands in the file."""
    return len(payload).to_bytes(_LENGTH_BYTES, "little") + payload


def write_recording(file: Path, payloads: Iterable[bytes]) -> None:
    """Writes encoded groups, one after the other."""
    with file.open("wb") as opened:
        opened.writelines(framed(payload) for payload in payloads)


def read_recording(file: Path, bounds: TrajectoryBounds) -> Iterator[ScoredGroup]:
    """Reads the groups of a file. Raises OSError, and MalformedRecordError for one that is not within `bounds`."""
    with file.open("rb") as opened:
        while head := opened.read(_LENGTH_BYTES):
            length = int.from_bytes(head, "little")
            payload = opened.read(length)
            if len(head) < _LENGTH_BYTES or len(payload) < length:
                raise MalformedRecordError("recording", f"{file} ends within a group")
            yield decode_group(payload, bounds)
