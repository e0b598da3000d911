"""Rows of JSONL files, and of `.json` files that hold one array of objects: an index of where each row lies.

The index has 24 bytes a row; a row's text is read from its file when it is asked for. Compressed files (.gz, .zst) are
unpacked first.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ais.collector.prompts.prompts import TaskError
from ais.collector.tasks.tables.compressed import open_plain, plain_name
from ais.collector.tasks.tables.files import names_of
from ais.collector.tasks.tables.rows import Row, shown

CHUNK = 1 << 22
"""Bytes of a file that are looked through at once for the ends of its lines."""
LONGEST_NUMBER = 1000
"""Digits of a whole number."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)
_SPACE = b" \t\r\n"


@dataclass(frozen=True)
class JsonFile:
    """One file and where its rows lie in it."""

    path: Path
    name: str
    descriptor: int
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    lines: NDArray[np.int64]
    """The line in which each row begins, from 1."""

    def text(self, number: int) -> str:
        """Raises ValueError for what is not UTF-8."""
        start, end = int(self.starts[number]), int(self.ends[number])
        try:
            return os.pread(self.descriptor, end - start, start).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"is not UTF-8 (byte {error.start + 1} of the line: {error.reason})") from error


class JsonRows:
    """The rows of several files, one file after another. The files stay open."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises TaskError for a file that cannot be read, is no text, or is a .json file without an array."""
        self._files = [_opened(path, name) for path, name in zip(paths, names_of(paths), strict=True)]
        self._firsts = np.cumsum([0, *(len(file.starts) for file in self._files)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, number: int) -> Row:
        file, within = self._find(number)
        return json_object(file.text(within))

    def place(self, number: int) -> str:
        file, within = self._find(number)
        return f"{file.path}, line {file.lines[within]}"

    def default_id(self, number: int) -> str:
        file, within = self._find(number)
        return f"{file.name}-{within + 1 if _is_array(file.path) else file.lines[within]}"

    def __del__(self) -> None:
        for file in getattr(self, "_files", ()):
            os.close(file.descriptor)

    def _find(self, number: int) -> tuple[JsonFile, int]:
        index = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self._files[index], number - int(self._firsts[index])


def json_object(text: str) -> dict[str, Any]:
    """Raises ValueError that says what is wrong, and in which column of the text."""
    try:
        row = json.loads(text, parse_constant=_refuse_constant, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg}, column {error.colno}), got {shown(text.strip())}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {shown(text.strip())}")
    return row


def _is_array(path: Path) -> bool:
    return plain_name(path).suffix == ".json"


def _opened(path: Path, name: str) -> JsonFile:
    try:
        descriptor = open_plain(path)
    except (OSError, EOFError, zlib.error) as error:  # some are raised without a strerror
        raise TaskError(f"cannot read task file {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        starts, ends, lines = _array_index(path, descriptor) if _is_array(path) else _line_index(path, descriptor)
    except OSError as error:
        os.close(descriptor)
        raise TaskError(f"cannot read task file {path}: {error.strerror}") from error
    except BaseException:
        os.close(descriptor)
        raise
    return JsonFile(path, name, descriptor, starts, ends, lines)


Index = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Start, end and line of each row."""


def _line_index(path: Path, descriptor: int) -> Index:
    """Lines end as on any system; those with nothing but white space in them are no rows.

    Not by splitlines: it also splits at characters that may stand inside a JSON string.
    """
    mark = _mark(path, descriptor)
    found, filled_before = zip(*_line_ends(descriptor), strict=True)
    ends, filled = np.concatenate(found), np.diff(np.concatenate([[mark], *filled_before])) > 0
    starts = np.concatenate([[mark], ends[:-1] + 1])
    return starts[filled], ends[filled], np.flatnonzero(filled) + 1


def _line_ends(descriptor: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    r"""Positions of \n, of \r where no \n follows, and of the end; with each, how many characters that are no white
    space come before it."""
    offset, filled = 0, 0
    while chunk := os.pread(descriptor, CHUNK + 1, offset):
        data = np.frombuffer(chunk, dtype=np.uint8)  # its last byte is only looked at, unless the file ends with it
        last = len(data) if len(chunk) <= CHUNK else CHUNK
        breaks = np.flatnonzero((data == 10) | ((data == 13) & (np.append(data[1:], 0) != 10)))
        breaks = breaks[breaks < last]
        counts = np.cumsum(data[:last] > 32, dtype=np.int64)
        yield breaks + offset, counts[breaks] + filled
        offset, filled = offset + last, filled + int(counts[-1])
    yield np.array([offset]), np.array([filled])


def _mark(path: Path, descriptor: int) -> int:
    """Bytes of the byte order mark at the beginning. Raises TaskError for a file that is UTF-16."""
    beginning = os.pread(descriptor, 4096, 0)
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in beginning:
        raise TaskError(f"task file {path} is not UTF-8 but looks like UTF-16: save it as UTF-8")
    return len(BYTE_ORDER_MARK) if beginning.startswith(BYTE_ORDER_MARK) else 0


def _array_index(path: Path, descriptor: int) -> Index:
    """The elements of the one array that the file holds. Their text is not looked at here."""
    mark = _mark(path, descriptor)
    if os.fstat(descriptor).st_size == mark:
        raise TaskError(f"task file {path} has no prompts")
    bounds, line, counted = array("q"), 1, 0
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        for start, end in _elements(path, data, mark):
            element = data[start:end]
            begin = start + len(element) - len(element.lstrip(_SPACE))
            line, counted = line + data[counted:begin].count(b"\n"), begin
            bounds.extend((begin, end, line))
    starts, ends, lines = np.array(bounds, dtype=np.int64).reshape(-1, 3).T
    empty = len(starts) == 1 and starts[0] == ends[0]
    return (starts[:0], ends[:0], lines[:0]) if empty else (starts, ends, lines)


def _elements(path: Path, data: mmap.mmap, begin: int) -> Iterator[tuple[int, int]]:
    """What stands between the array's brackets and commas."""
    depth, start = 0, -1
    for match in _STRUCTURE.finditer(data, begin):
        token, position = match.group()[:1], match.start()
        if depth == 0:
            if token != b"[" or start >= 0 or data[begin:position].strip(_SPACE):
                break
            depth, start = 1, position + 1
            continue
        if depth == 1 and token in (b",", b"]"):
            yield start, position
            start = position + 1
        depth += (token in b"[{") - (token in b"]}")
    if depth or start < 0 or data[start:].strip(_SPACE):
        raise TaskError(
            f"task file {path} is not one JSON array of objects, as a .json file must be; the name of a file with one "
            "object a line ends in .jsonl"
        )


def _whole_number(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits is too long: write it as text")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
