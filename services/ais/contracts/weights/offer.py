"""The weights path's contract: how a policy version reaches a replica, and what may go wrong.

A policy version is immutable. Its number and its digest name it. It is one safetensors file or several (shards); its
digest is that of the file, or of several files that over their digests in order. (BLAKE3: three times as fast as
SHA-256, which bounded a push.)

Bringing a version to a replica takes three kinds of request:

    PUT /v1/weights/{version}                   an `Offer`, JSON: what the version is, and how its bytes will come
    PUT /v1/weights/{version}/shards/{index}    bytes of one shard, from the offset in `X-AIS-Offset` to its end
    PUT /v1/weights/{version}                   the same offer again: everything is there, apply it

An offer is answered with 202 and `Missing` as long as bytes are missing, and with 200 once the version serves. So a
sender only ever repeats the offer, and sends what the answer asks for, until it gets 200. Whatever was cut in between,
by a lost connection or a restart of the sender, goes on at the byte where it was cut. The newest connection that sends
a shard is the one that is listened to: one that hangs half-open is in nobody's way.

What is sent is the files themselves (`full`), or for each file the exact difference to the same file of a base version
(`delta`: `ais.contracts.weights.delta`), or the adapter that makes each of the model that the replica was started with
(`adapter`: `ais.contracts.weights.adapter`). Both ends are verified: the digest of what is sent, and that of what
results.

The files are the BF16 ones that name the version, or a quantised `form` of them (`ais.contracts.weights.forms`), for
replicas that would round them to just that. Its shards have digests of their own, and it is verified by these; that it
is a form of this version is the sender's word. A delta is between two versions in the same form.

A sender that shares a directory with replicas says where in it the files lie (`shared`). A replica that may read there
takes each shard that is there and has its digest, and lists the others as missing: they come over HTTP, as they all do
to a replica that shares nothing with the sender.

An offer may name replicas to pass the version on to (`relay`). A replica sends them the same bytes that it got, shard
by shard as they become whole, each with the part of the tree below it; where one cannot be reached, its children are
taken over. Whether it succeeds changes nothing for the replica itself: the trainer looks at the registry and serves who
is left behind.

Fencing: an offer names its run and the start of the run's trainer. A replica follows the run that Redis names: one
that is begun anew under the same name is followed, and what the old one still sends is refused. Within a run each start
of a trainer has a higher `incarnation`. A replica takes a version when (incarnation, version) is
greater than what it serves, so a trainer that resumed from an older checkpoint can go back in versions, and a trainer
that was replaced cannot go on. Weights a replica loaded from disk itself are older than any offer.

Answers:

    200  serving it now, or serving it already (nothing done)
    202  an offer was taken, or a shard: these bytes are missing
    404  a shard of a version that is not on its way: offer it (again)
    408  the body stalled
    409  `run`: of a run that Redis does not name; `version`: serving or receiving something newer; `digest`: this
         version is served with another digest; `base`: the base of a delta is not here in its form, or an adapter
         does not give the version here, send the full version; `offset`: the shard goes on at another offset, offer
         the version again to learn where
    411  no Content-Length
    413  larger than the model it is meant for
    415  `encoding`: unknown, or an adapter to a replica that holds no weights, send the full version; `form`: this
         replica does not compute with that one, send BF16
    422  a malformed offer, wrong digest, wrong names, shapes or dtypes, values that are not finite, scales that
         are not above 0, or log-probs too far from those of the version's probe (`ais.contracts.weights.probe`): the
         version before goes on serving
    503  draining, the staging directory cannot be written, or the engine has failed
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ais.contracts.weights.forms import BF16

OFFSET_HEADER = "X-AIS-Offset"
"""Header of a shard's bytes: where in the shard they begin."""
DIGEST_HEADER = "X-AIS-Digest"
"""Header of a shard's bytes: `sent_digest` of the shard that they are part of."""
CONTENT_TYPE = "application/octet-stream"
SINGLE_FILE = "model.safetensors"
"""Name of a version that is one file; shards are named as Hugging Face names them."""
INDEX_FILE = "model.safetensors.index.json"
_PIECE_BYTES = 1 << 20

LARGEST_NUMBER = 1 << 53
"""Versions, incarnations and sizes; JSON numbers above are not exact everywhere."""
OFFER_BYTES = 4 << 20
"""Longest offer that a replica reads. One of `MOST_SHARDS` shards takes less than half of it."""
MOST_SHARDS = 4096
MOST_RELAYED = 4096
"""Replicas that an offer may name below the one that it goes to."""
MOST_CHILDREN = 64
"""Replicas that one replica passes a version on to."""

Digest = Annotated[str, Field(pattern=r"^blake3:[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]
Identity = tuple[int, str]
"""Number and digest of a version."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Shard(_Message):
    """One file of a version."""

    name: str = Field(pattern=r"^model(-\d{5}-of-\d{5})?\.safetensors$")
    size: Size
    """Bytes of the file."""
    digest: Digest
    """Digest of the file."""
    sent_size: int = Field(gt=0, le=LARGEST_NUMBER)
    """Bytes that are sent: the file's own, or those of its delta or adapter."""
    sent_digest: Digest
    """Digest of what is sent."""


class Base(_Message):
    """The version that a delta starts from."""

    version: int = Field(ge=0, le=LARGEST_NUMBER)
    digest: Digest


class RelayTarget(_Message):
    """A replica to pass a version on to, and whom it passes it on to in turn."""

    url: str = Field(max_length=2048)
    """Base URL of its control API."""
    children: tuple[RelayTarget, ...] = Field(default=(), max_length=MOST_CHILDREN)

    def count(self) -> int:
        """Replicas in this part of the tree."""
        return 1 + sum(child.count() for child in self.children)


class Offer(_Message):
    """A version that a replica is to serve."""

    version: int = Field(ge=0, le=LARGEST_NUMBER)
    run: str = Field(default="", max_length=64)
    """Identity of the run it is of, as Redis names it; empty: of no run that a replica could check."""
    incarnation: int = Field(ge=0, le=LARGEST_NUMBER)
    """Which start of the run's trainer this comes from."""
    digest: Digest
    """Digest of the version's BF16 files, whichever form is sent."""
    encoding: str = Field(max_length=16)
    """What is sent: `full`, `delta` or `adapter`."""
    form: str = Field(default=BF16, max_length=32)
    """Form of the shards and of the base's: `ais.contracts.weights.forms`."""
    base: Base | None = None
    """The version that a delta starts from."""
    shards: tuple[Shard, ...] = Field(min_length=1, max_length=MOST_SHARDS)
    """In the order of the digest."""
    shared: str = Field(default="", max_length=1024)
    """Where the files that are sent also lie, each under its `sent_name`: a directory, as a path from the one that the
    sender shares with replicas. Empty: nowhere that a replica could look."""
    relay: tuple[RelayTarget, ...] = Field(default=(), max_length=MOST_CHILDREN)
    """Replicas to pass it on to."""
    relay_seconds: float = Field(default=120.0, gt=0.0, le=86_400.0)
    """How long passing it on may take."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if (self.encoding == "delta") != (self.base is not None):
            raise ValueError("base: expected one for encoding delta, and none for another")
        if self.encoding == "adapter" and self.form != BF16:
            raise ValueError(f"form: expected {BF16} for encoding adapter, got {self.form}")
        if self.shared and not _leads_below(self.shared):
            raise ValueError("shared: expected a path below the shared directory, without . and ..")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("shards: expected names that differ")
        if (named := sum(target.count() for target in self.relay)) > MOST_RELAYED:
            raise ValueError(f"relay: expected up to {MOST_RELAYED} replicas, got {named}")
        combined = version_digest([shard.digest for shard in self.shards])
        if self.form == BF16 and combined != self.digest:
            raise ValueError(f"digest: expected that of the shards, {combined}, got {self.digest}")
        return self

    @property
    def sent_bytes(self) -> int:
        return sum(shard.sent_size for shard in self.shards)


class MissingShard(_Message):
    """Bytes of a shard that a replica does not have."""

    index: int
    offset: int
    """They begin here and go to the shard's end."""


class Missing(_Message):
    """What a replica still needs of a version before it can apply it."""

    shards: tuple[MissingShard, ...]


class WeightsStatus(_Message):
    """Answer of `GET /v1/weights` and of an offer that is served."""

    version: int
    digest: str
    incarnation: int = -1
    """Which start of the trainer it came from; -1: the replica loaded it from disk."""
    applied_seconds: float
    """Time generation stood still for the last swap; 0 for the version it started with."""
    form: str = BF16
    """In which it came."""
    probe_gap: float | None = None
    """Mean |log-prob difference| to the trainer on the served version's probe, nats a token. None: it has no probe."""


class DigestBuilder:
    """Digest of bytes fed in pieces."""

    def __init__(self) -> None:
        self._hash = blake3()

    def update(self, piece: bytes | memoryview) -> None:
        self._hash.update(piece)

    def result(self) -> str:
        return f"blake3:{self._hash.hexdigest()}"


def digest_of(content: bytes | memoryview) -> str:
    """Digest of bytes in memory."""
    builder = DigestBuilder()
    builder.update(content)
    return builder.result()


def digest_of_file(file: Path) -> str:
    builder = DigestBuilder()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            builder.update(piece)
    return builder.result()


def version_digest(digests: Sequence[str]) -> str:
    """Digest of a version from those of its files, in order."""
    return digests[0] if len(digests) == 1 else digest_of("".join(digests).encode())


def _leads_below(path: str) -> bool:
    return path.isprintable() and not {"", ".", ".."}.intersection(path.split("/"))


def shard_name(number: int, count: int) -> str:
    """Name of file `number`, from 1, of `count`."""
    return SINGLE_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def sent_name(name: str, encoding: str) -> str:
    """Name of the file with what is sent of the shard `name`."""
    return name if encoding == "full" else f"{name}.{encoding}"


def full_offer(version: int, files: Sequence[Path], incarnation: int = 0) -> Offer:
    """An offer of files as they are, whose digests are computed here."""
    digests = [digest_of_file(file) for file in files]
    shards = tuple(
        Shard(
            name=shard_name(number, len(files)),
            size=(size := file.stat().st_size),
            digest=digest,
            sent_size=size,
            sent_digest=digest,
        )
        for number, (file, digest) in enumerate(zip(files, digests, strict=True), start=1)
    )
    return Offer(
        version=version, incarnation=incarnation, digest=version_digest(digests), encoding="full", shards=shards
    )
