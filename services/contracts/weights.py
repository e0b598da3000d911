"""The weights path's contract: what `PUT /v1/weights/{version}` carries and answers.

The body is one safetensors file, streamed. Headers say how to read it and what it must hash to. A policy version is
immutable: its number and the digest of its full snapshot name it. Answers:

    200  serving it now, or serving it already (nothing done)
    408  the body stalled
    409  the replica serves a newer version, or this version with another digest
    411  no Content-Length
    413  larger than the model it is meant for
    415  unknown encoding
    422  wrong digest, wrong names, shapes or dtypes, values that are not finite, or log-probs too far from those of the
         snapshot's probe (`services.contracts.probe`): the version before goes on serving
    503  draining, or the engine has failed
"""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

ENCODING_HEADER = "X-AIS-Encoding"
"""How the body encodes the version: `full`."""
DIGEST_HEADER = "X-AIS-Digest"
"""Digest of the full snapshot, as `sha256:<hex>`."""
ENCODING_FULL = "full"
CONTENT_TYPE = "application/octet-stream"


class WeightsStatus(BaseModel):
    """Answer of `GET /v1/weights` and of a successful PUT."""

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    applied_seconds: float
    """Time generation stood still for the last swap; 0 for the version it started with."""
    probe_gap: float | None = None
    """Mean |log-prob difference| to the trainer on the served version's probe, nats a token. None: it has no probe."""


class WeightsRefused(BaseModel):
    """Answer of a PUT that changed nothing."""

    model_config = ConfigDict(frozen=True)

    field: str
    """What was wrong: digest, a tensor's name, version, ..."""
    reason: str
    """What was expected, what came, what to do."""
    serving_version: int
    probe_gap: float | None = None
    """The gap measured, where it was too large: mean |log-prob difference| to the trainer, nats a token."""


class DigestBuilder:
    """Digest of a snapshot fed in pieces."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, piece: bytes | memoryview) -> None:
        self._hash.update(piece)

    def result(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def digest_of(snapshot: bytes | memoryview) -> str:
    """Digest of a whole snapshot."""
    builder = DigestBuilder()
    builder.update(snapshot)
    return builder.result()
