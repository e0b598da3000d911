"""The exact difference of two safetensors files of the same tensors, small when few values have moved.

    magic, length of what follows, its zstd-compressed JSON: values' width, bytes of values and of a block, the
        new file's header
    for each block of values: what `ais.contracts.weights.delta_blocks` makes of it

Both sides work block by block, so memory is bounded, and in threads: numpy and zstd let go of the interpreter's lock.
What is damaged or cut off is found: by its own structure here, or by the digest of the result, which callers must give.
"""

from __future__ import annotations

import base64
import json
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import zstandard
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ais.contracts.weights.delta_blocks import (
    BLOCK,
    INTEGERS,
    LEVEL,
    DeltaError,
    decode_block,
    decompress,
    encode_block,
)
from ais.contracts.weights.offer import DigestBuilder

BLOCK_BYTES = 1 << 20
"""Bytes of values coded at once, in memory a few times over for each thread. Larger ones are slower: they leave the
processor's caches."""
LARGEST_BLOCK = 64 << 20
"""Most bytes of a block of a delta that comes in."""
LARGEST_HEADER = 16 << 20
"""Bytes of a safetensors header, or of this format's own: some 100,000 tensors in one file."""
_MAGIC = b"AISDELTA"
_LENGTH = struct.Struct("<I")
_WIDTHS = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class EncodedDelta:
    """What was written."""

    size: int
    """Bytes."""
    digest: str
    """Digest of these bytes."""


def encode_delta(base: Path, new: Path, target: Path, new_digest: str, threads: int = 1) -> EncodedDelta:
    """Writes to `target` what makes `new` of `base`. It is decoded again as it is made, and proved by the digest.

    Raises DeltaError when the files hold other tensors than each other, or `new` has not `new_digest`.
    """
    with base.open("rb") as old_file, new.open("rb") as new_file, target.open("wb") as output:
        old_header, new_header = read_header(old_file), read_header(new_file)
        if tensors_of(old_header) != tensors_of(new_header):
            raise DeltaError(f"expected files of the same tensors, got others in {base} and {new}")
        sent, result = DigestBuilder(), DigestBuilder()
        width, size = _width(new_header), new.stat().st_size - len(new_header)
        head = _Head(width, size, BLOCK_BYTES, new_header)
        compressed = zstandard.compress(head.encode(), LEVEL)
        for piece in (_MAGIC, _LENGTH.pack(len(compressed)), compressed):
            output.write(piece)
            sent.update(piece)
        result.update(new_header)

        def code(blocks: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
            encoded = encode_block(*blocks, width)
            return encoded, decode_block(blocks[0], encoded, width)

        for encoded, decoded in _in_threads(code, _pairs(old_file, new_file, head), threads):
            output.write(encoded)
            sent.update(encoded)
            result.update(decoded)
        if (got := result.result()) != new_digest:
            raise DeltaError(f"expected the delta to give {new_digest}, got {got}: the new file is not that version's")
        return EncodedDelta(output.tell(), sent.result())


def apply_delta(base: Path, delta: Path, target: Path, size: int, digest: str, threads: int = 1) -> None:
    """Writes to `target` the file of `size` bytes and `digest` that `delta` makes of `base`.

    Raises DeltaError when it does not; `target` is then gone.
    """
    try:
        with base.open("rb") as old_file, delta.open("rb") as coded, target.open("wb") as output:
            written = _apply(old_file, coded, output, size, threads)
        if written != digest:
            raise DeltaError(f"expected the delta to give {digest}, got {written}")
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _apply(old_file: IO[bytes], coded: IO[bytes], output: IO[bytes], size: int, threads: int) -> str:
    old_header = read_header(old_file)
    head = _read_head(coded)
    if len(head.header) + head.size != size or tensors_of(old_header) != tensors_of(head.header):
        raise DeltaError(f"expected a delta to a file of {size} bytes with the base's tensors, got another one")
    digest = DigestBuilder()
    digest.update(head.header)
    output.write(head.header)

    def blocks() -> Iterator[tuple[bytes, bytes]]:
        for length in _lengths(head):
            yield _exactly(old_file, length), _read_block(coded, length)

    for decoded in _in_threads(lambda block: decode_block(*block, head.width), blocks(), threads):
        digest.update(decoded)
        output.write(decoded)
    if coded.read(1):
        raise DeltaError("expected the delta to end after its last block, got more")
    return digest.result()


def read_header(file: IO[bytes]) -> bytes:
    """The safetensors header with its length; the file is then at its values. Raises DeltaError."""
    length = _exactly(file, 8)
    size = int.from_bytes(length, "little")
    if size > LARGEST_HEADER:
        raise DeltaError(f"expected a safetensors file, got a header of {size} bytes")
    return length + _exactly(file, size)


def tensors_of(header: bytes) -> dict[str, Any]:
    """All that a header says but the metadata, which holds the probe and differs from version to version.

    Raises DeltaError.
    """
    try:
        entries = _ENTRIES.validate_json(header[8:])
    except ValidationError as error:
        raise DeltaError(f"expected a safetensors header: {error.errors()[0]['msg']}") from None
    return {name: entry for name, entry in entries.items() if name != "__metadata__"}


def _width(header: bytes) -> int:
    """Bytes of the values that make up most of the file."""
    shares: dict[int, int] = {}
    for entry in tensors_of(header).values():
        begin, end = entry["data_offsets"]
        width = _WIDTHS.get(entry["dtype"], 1)
        shares[width] = shares.get(width, 0) + end - begin
    return max(shares, key=lambda width: shares[width], default=1)


@dataclass(frozen=True)
class _Head:
    """What a delta says of the file it makes."""

    width: int
    size: int
    """Bytes of values."""
    block: int
    """Bytes of them in a block; the last one may have fewer."""
    header: bytes
    """The file's safetensors header with its length."""

    def encode(self) -> bytes:
        return json.dumps({**vars(self), "header": base64.b64encode(self.header).decode()}).encode()

    @classmethod
    def decode(cls, text: bytes) -> _Head:
        """Raises ValueError, whatever the text is."""
        fields = _HEAD.validate_json(text, strict=True)
        head = cls(fields["width"], fields["size"], fields["block"], base64.b64decode(fields["header"], validate=True))
        if head.width not in INTEGERS or head.size < 0 or not 1 <= head.block <= LARGEST_BLOCK:
            raise ValueError(f"got width {head.width}, {head.size} bytes in blocks of {head.block}")
        return head


class _HeadFields(TypedDict):
    """A head as it is written: the header in base 64."""

    width: int
    size: int
    block: int
    header: str


_HEAD = TypeAdapter(_HeadFields)
_ENTRIES = TypeAdapter(dict[str, dict[str, Any]])


def _read_head(file: IO[bytes]) -> _Head:
    if _exactly(file, len(_MAGIC)) != _MAGIC:
        raise DeltaError("expected a delta, got something else")
    (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    compressed = _exactly(file, min(length, LARGEST_HEADER))
    try:
        size = zstandard.frame_content_size(compressed)
        return _Head.decode(decompress(memoryview(compressed), min(size, 2 * LARGEST_HEADER)))
    except (ValueError, zstandard.ZstdError) as error:  # pydantic's errors are ValueErrors
        raise DeltaError(f"expected a delta's head: {str(error)[:200]}") from None


def _read_block(file: IO[bytes], length: int) -> bytes:
    start = _exactly(file, BLOCK.size)
    _coding, _count, size = BLOCK.unpack(start)
    if size > 4 * length + 1024:
        raise DeltaError(f"expected a block for {length} bytes, got one of {size}")
    return start + _exactly(file, size)


def _pairs(old_file: IO[bytes], new_file: IO[bytes], head: _Head) -> Iterator[tuple[bytes, bytes]]:
    for length in _lengths(head):
        yield _exactly(old_file, length), _exactly(new_file, length)


def _lengths(head: _Head) -> Iterator[int]:
    for begin in range(0, head.size, head.block):
        yield min(head.block, head.size - begin)


def _exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise DeltaError(f"expected {size} bytes more, got {len(content)}: the file is cut off")
    return content


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Results in order; at most two items a thread are in memory."""
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="delta") as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
