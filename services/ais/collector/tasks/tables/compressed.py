"""Files that are compressed: `.gz` and `.zst`. One is unpacked once, into a temporary file that rows are read from.

A row is read where it lies, and in a compressed stream nothing lies anywhere. The temporary file (in `TMPDIR`) has no
name and is gone with the process.
"""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from ais.runtime.process import UnavailableError

ENDINGS = (".gz", ".zst")


def plain_name(path: Path) -> Path:
    """The path without the ending that says how it is compressed."""
    return path.with_suffix("") if path.suffix in ENDINGS else path


def open_plain(path: Path) -> int:
    """A descriptor of the file's content, unpacked where it is compressed. The caller closes it.

    Raises OSError or EOFError for what cannot be read or unpacked, UnavailableError without the library for it.
    """
    if path.suffix not in ENDINGS:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with _opened(path) as packed, TemporaryFile(prefix="ais-unpacked-") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
        unpacked.flush()
        return os.dup(unpacked.fileno())


def _opened(path: Path) -> IO[bytes] | Any:
    if path.suffix == ".gz":
        return gzip.open(path)
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UnavailableError(f"task file {path} needs pyarrow ({error}): pip install 'ais-rl[data]'") from error
    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
