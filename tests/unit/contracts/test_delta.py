"""A delta gives back every file exactly, whatever its bits; what is damaged or cut off never passes for a file."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from ais.contracts.weights import delta
from ais.contracts.weights.delta import apply_delta, encode_delta
from ais.contracts.weights.delta_blocks import DeltaError
from ais.contracts.weights.offer import digest_of, digest_of_file

BLOCK = 64
"""Bytes coded at once in these tests, so that small files have several blocks, the last one shorter."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "BLOCK_BYTES", BLOCK)


def file_of(path: Path, values: bytes, dtype: torch.dtype = torch.bfloat16, note: str = "") -> Path:
    """A safetensors file of one tensor with just these bits."""
    tensor = torch.frombuffer(bytearray(values), dtype=dtype)
    path.write_bytes(save({"weight": tensor}, metadata={"note": note}))
    return path


def round_trip(directory: Path, base: Path, new: Path, threads: int = 1) -> int:
    """Bytes of the delta that has given back `new`."""
    encoded = encode_delta(base, new, directory / "delta", digest_of_file(new), threads)
    assert encoded.digest == digest_of_file(directory / "delta")
    assert encoded.size == (directory / "delta").stat().st_size
    apply_delta(base, directory / "delta", directory / "result", new.stat().st_size, digest_of_file(new), threads)
    assert (directory / "result").read_bytes() == new.read_bytes()
    return encoded.size


WIDE = st.integers(1, 100).flatmap(lambda count: st.tuples(*[st.binary(min_size=4 * count, max_size=4 * count)] * 2))


@given(WIDE, st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.uint8]))
@settings(max_examples=60, deadline=None)
def test_any_bits_come_back_from_any_base(
    tmp_path_factory: pytest.TempPathFactory, bits: tuple[bytes, bytes], dtype: torch.dtype
) -> None:
    directory = tmp_path_factory.mktemp("delta")
    base = file_of(directory / "base", bits[0], dtype)
    round_trip(directory, base, file_of(directory / "new", bits[1], dtype, note="another header"))


@given(st.integers(1, 200), st.data())
@settings(max_examples=60, deadline=None)
def test_few_changes_anywhere_come_back(
    tmp_path_factory: pytest.TempPathFactory, count: int, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("delta")
    old = np.arange(count, dtype="<u2")
    new = old.copy()
    for position in data.draw(st.sets(st.integers(0, count - 1), max_size=1 + count // 8)):
        new[position] = data.draw(st.sampled_from([0x7FC0, 0xFFFF, 0x8000, 1, 0]))
    round_trip(directory, file_of(directory / "base", old.tobytes()), file_of(directory / "new", new.tobytes()))


def test_nan_and_signed_zero_keep_their_bits(tmp_path: Path) -> None:
    patterns = np.array([0x7FC0, 0xFFC1, 0x7F80, 0xFF80, 0x8000, 0x0000, 0x7FFF, 0x0001] * 20, dtype="<u2")
    base = file_of(tmp_path / "base", patterns.tobytes())
    round_trip(tmp_path, base, file_of(tmp_path / "new", np.roll(patterns, 1).tobytes()))


def test_values_that_do_not_fill_whole_blocks_or_integers_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(BLOCK, dtype=torch.bfloat16), "b": torch.zeros(7, dtype=torch.uint8)}
    (tmp_path / "base").write_bytes(save(tensors))
    tensors["b"][3] = 255
    (tmp_path / "new").write_bytes(save(tensors))
    round_trip(tmp_path, tmp_path / "base", tmp_path / "new")


def test_threads_give_the_same_bytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    base = file_of(tmp_path / "base", generator.bytes(4096))
    new = file_of(tmp_path / "new", generator.bytes(4096))
    alone = round_trip(tmp_path, base, new)
    written = (tmp_path / "delta").read_bytes()
    assert (round_trip(tmp_path, base, new, threads=3), (tmp_path / "delta").read_bytes()) == (alone, written)


def test_a_step_of_training_is_far_smaller_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    generator = torch.Generator().manual_seed(0)
    masters = torch.randn(200_000, generator=generator) * 0.02
    moved = masters - 1e-6 * torch.randn(200_000, generator=generator).clamp(-1, 1)
    for name, values in (("base", masters), ("new", moved)):
        (tmp_path / name).write_bytes(save({"weight": values.bfloat16()}))
    assert round_trip(tmp_path, tmp_path / "base", tmp_path / "new") < 0.03 * (tmp_path / "new").stat().st_size


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A base and its delta to `new`, with sparse and dense blocks."""
    generator = np.random.default_rng(1)
    old = np.frombuffer(generator.bytes(1024), "<u2")
    new = old.copy()
    new[:256] += generator.integers(0, 9, 256).astype("<u2")
    new[300::50] += 1
    base = file_of(tmp_path / "base", old.tobytes())
    file = file_of(tmp_path / "new", new.tobytes())
    encode_delta(base, file, tmp_path / "delta", digest_of_file(file))
    return base, tmp_path / "delta"


def refused(base: Path, content: bytes, directory: Path) -> None:
    new = directory / "new"
    (directory / "damaged").write_bytes(content)
    with pytest.raises(DeltaError):
        apply_delta(base, directory / "damaged", directory / "result", new.stat().st_size, digest_of_file(new))
    assert not (directory / "result").exists(), "nothing is left that could be taken for the file"


def test_a_delta_cut_off_anywhere_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, coded = pair
    content = coded.read_bytes()
    for length in range(0, len(content), 7):
        refused(base, content[:length], tmp_path)
    refused(base, content + b"\0", tmp_path)


def test_a_delta_damaged_anywhere_is_refused_or_still_gives_the_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """zstd's frames have a few bits without meaning: there the result is right, and nothing else ever comes out."""
    base, coded = pair
    content, new = coded.read_bytes(), tmp_path / "new"
    refusals = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            apply_delta(base, tmp_path / "damaged", tmp_path / "result", new.stat().st_size, digest_of_file(new))
        except DeltaError:
            refusals += 1
        else:
            assert (tmp_path / "result").read_bytes() == new.read_bytes()
    assert refusals > 0.95 * len(content)


SOUND_HEAD = {"width": 2, "size": 1024, "block": 64, "header": "AAAA"}


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[1, 2]",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        *(
            json.dumps(SOUND_HEAD | {field: value}).encode()
            for field in SOUND_HEAD
            for value in (None, [], {}, True, 1.5, "1e9", -1, 10**400, math.inf, math.nan, "\0")
        ),
        *(
            json.dumps(SOUND_HEAD | {"header": base64.b64encode(bytes(8) + entries).decode()}).encode()
            for entries in (b"1", b"[]", b"{", b'{"a": 1}', b'{"a": null}', b"[" * 100_000, b"\xff")
        ),
    ],
)
def test_a_head_of_any_kind_is_refused_as_a_delta(pair: tuple[Path, Path], tmp_path: Path, head: bytes) -> None:
    """So that the replica answers that it needs the whole version, not that it is in trouble."""
    base, coded = pair
    content = coded.read_bytes()
    compressed = zstandard.compress(head)
    refused(base, content[:8] + struct.pack("<I", len(compressed)) + compressed + content[64:], tmp_path)


def test_a_head_that_unpacks_to_more_than_is_allowed_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, _coded = pair
    bomb = zstandard.compress(bytes(3 * delta.LARGEST_HEADER))
    refused(base, b"AISDELTA" + struct.pack("<I", len(bomb)) + bomb, tmp_path)


def test_a_head_that_does_not_say_its_size_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, _coded = pair
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"{}")
    refused(base, b"AISDELTA" + struct.pack("<I", len(unsized)) + unsized, tmp_path)


def test_another_base_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, coded = pair
    other = bytearray(base.read_bytes())
    other[-3] ^= 4
    base.write_bytes(other)
    refused(base, coded.read_bytes(), tmp_path)


@pytest.mark.parametrize(
    "change",
    [lambda tensors: tensors.update(more=torch.ones(1)), lambda tensors: tensors.update(weight=torch.ones(3, 2))],
    ids=["another tensor", "another shape"],
)
def test_files_of_other_tensors_have_no_delta(
    change: Callable[[dict[str, torch.Tensor]], None], tmp_path: Path
) -> None:
    tensors = {"weight": torch.ones(2, 3)}
    (tmp_path / "base").write_bytes(save(tensors))
    change(tensors)
    (tmp_path / "new").write_bytes(save(tensors))
    with pytest.raises(DeltaError, match="same tensors"):
        encode_delta(tmp_path / "base", tmp_path / "new", tmp_path / "delta", digest_of_file(tmp_path / "new"))


def test_a_delta_that_would_not_give_the_version_is_never_made(tmp_path: Path) -> None:
    """The file changed on the trainer's disk since its digest was taken."""
    base, new = file_of(tmp_path / "base", bytes(100)), file_of(tmp_path / "new", bytes(99) + b"\1")
    with pytest.raises(DeltaError, match="not that version's"):
        encode_delta(base, new, tmp_path / "delta", digest_of(b"what it was"))
