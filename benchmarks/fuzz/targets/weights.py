"""The weights path: offers and what replicas answer, deltas, probes."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import zstandard

from ais.contracts.trajectory import MalformedRecordError
from ais.contracts.weights.delta import apply_delta, encode_delta
from ais.contracts.weights.delta_blocks import BLOCK, DeltaError
from ais.contracts.weights.offer import (
    Base,
    Missing,
    MissingShard,
    Offer,
    RelayTarget,
    WeightsStatus,
    digest_of,
    full_offer,
)
from ais.contracts.weights.probe import PROBE_KEY, Probe, decode_probe, encode_probe
from ais.contracts.weights.refusal import WeightsRefused, WeightsRefusedError
from ais.contracts.weights.upload import UploadError, check_asked, read_answer, read_refusal
from ais.rollout.weights.control_api import decode_offer
from ais.rollout.weights.standing import FROM_DISK, Standing, judge
from benchmarks.fuzz.target import Target, Targets

VOCABULARY = 23
_TEMPORARY = tempfile.TemporaryDirectory(prefix="ais-fuzz-")
DIRECTORY = Path(_TEMPORARY.name)
BASE, NEW, INPUT, OUTPUT = (DIRECTORY / name for name in ("base", "new", "input", "output"))
SHAPES = {"model.layers.0.mlp.up_proj.weight": (4, 6), "model.norm.weight": (4,)}
PROBE = encode_probe(Probe(((1, 2, 3), (4, 5)), ((-0.5, -1.0), (-0.25,))))


def snapshot(file: Path, shift: int) -> bytes:
    """A file of random finite values; `shift`, steps of their grid, differs from version to version."""
    header: dict[str, object] = {"__metadata__": {PROBE_KEY: PROBE}}
    drawn, values = np.random.default_rng(0), b""
    for name, shape in SHAPES.items():
        begin = len(values)
        values += (drawn.integers(0, 0x3F00, shape) + shift).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (begin, len(values))}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + values
    file.write_bytes(content)
    return content


OLD_CONTENT, NEW_CONTENT = snapshot(BASE, 0), snapshot(NEW, 1)
NEW_DIGEST = digest_of(NEW_CONTENT)


# Offers, and what replicas answer.


OFFER = full_offer(7, [NEW], incarnation=3)
DELTA_OFFER = Offer.model_validate(
    OFFER.model_dump()
    | {
        "encoding": "delta",
        "base": Base(version=6, digest=digest_of(OLD_CONTENT)).model_dump(),
        "relay": [RelayTarget(url="http://10.0.0.7:8000", children=(RelayTarget(url="http://b"),)).model_dump()],
    }
)
STANDING = Standing(6, digest_of(OLD_CONTENT), "bf16", ("model.safetensors",), "", FROM_DISK, None)


def read_offer(content: bytes) -> None:
    judge(STANDING, decode_offer(content))


def read_answer_of_replica(content: bytes) -> None:
    """As the trainer reads an answer, whose status says which of three kinds it is."""
    kind, body = content[:1], content[1:]
    if kind == b"r":
        read_refusal(body)
    elif kind == b"m":
        for shard in read_answer(Missing, "http://replica", body).shards:
            check_asked(shard, "http://replica", OFFER)
    else:
        read_answer(WeightsStatus, "http://replica", body)


# Deltas.


def read_delta(content: bytes) -> None:
    INPUT.write_bytes(content)
    apply_delta(BASE, INPUT, OUTPUT, len(NEW_CONTENT), NEW_DIGEST)
    assert OUTPUT.read_bytes() == NEW_CONTENT


def _delta() -> bytes:
    encode_delta(BASE, NEW, INPUT, NEW_DIGEST)
    return INPUT.read_bytes()


def packed_delta(content: bytes) -> bytes:
    """A delta whose parts are `content`'s, compressed as they should be: mutations get behind zstd so.

    The head, JSON, ends with the byte 0x1e; then come the coding, the count and the values of one block.
    """
    head, _, block = content.partition(b"\x1e")
    coding, count = struct.unpack("<BI", block[:5].ljust(5, b"\0"))
    compressed_head, compressed = zstandard.compress(head, 1), zstandard.compress(block[5:], 1)
    start = b"AISDELTA" + struct.pack("<I", len(compressed_head)) + compressed_head
    return start + BLOCK.pack(coding, count, len(compressed)) + compressed


def _unpacked() -> bytes:
    """What `packed_delta` makes the good delta of."""
    delta = _delta()
    (length,) = struct.unpack_from("<I", delta, 8)
    head, rest = zstandard.decompress(delta[12 : 12 + length]), delta[12 + length :]
    coding, count, size = BLOCK.unpack_from(rest)
    return head + b"\x1e" + struct.pack("<BI", coding, count) + zstandard.decompress(rest[BLOCK.size :][:size])


# Probes.


def read_probe_text(content: bytes) -> None:
    probe = decode_probe(content.decode(errors="replace"), VOCABULARY)
    assert decode_probe(encode_probe(probe), VOCABULARY) == probe


_MISSING = Missing(shards=(MissingShard(index=0, offset=10),))
_STATUS = WeightsStatus(version=7, digest=NEW_DIGEST, applied_seconds=0.1, probe_gap=0.01)
_REFUSED = WeightsRefused(field="digest", reason="another one came", serving_version=6)

TARGETS: Targets = {
    "offer": Target(
        read_offer, (WeightsRefusedError,), tuple(one.model_dump_json().encode() for one in (OFFER, DELTA_OFFER))
    ),
    "answer": Target(
        read_answer_of_replica,
        (UploadError,),
        tuple(
            kind + one.model_dump_json().encode() for kind, one in ((b"m", _MISSING), (b"s", _STATUS), (b"r", _REFUSED))
        ),
    ),
    "delta": Target(read_delta, (DeltaError,), (_delta(),)),
    "delta_inside": Target(lambda content: read_delta(packed_delta(content)), (DeltaError,), (_unpacked(),)),
    "probe": Target(read_probe_text, (MalformedRecordError,), (PROBE.encode(),)),
}
