"""Rows of Parquet files. What is needed of them is unpacked once, in batches, into a temporary file that is mapped.

Parquet unpacks whole row groups; a seeded order would unpack one for each row. The temporary file (in `TMPDIR`) is
uncompressed Arrow, which any row is read from at once. It has no name and is gone with the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ais.collector.prompts.prompts import TaskError
from ais.collector.tasks.tables.files import names_of
from ais.collector.tasks.tables.prompts import PromptReader
from ais.collector.tasks.tables.rows import Row
from ais.runtime.process import UnavailableError

BATCH = 1024
"""Rows that are unpacked at once."""


class ParquetRows:
    """The rows of several files with the same columns, one file after another."""

    def __init__(self, paths: Sequence[Path], reader: PromptReader) -> None:
        """Raises TaskError for a file that is no Parquet, or lacks a column, and for files whose columns differ."""
        self._paths = paths
        self._names = names_of(paths)
        self._batches, counts = _unpacked(paths, reader)
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._firsts = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, number: int) -> Row:
        index = int(np.searchsorted(self._starts, number, side="right")) - 1
        within = number - int(self._starts[index])
        row: Row = self._batches[index].slice(within, 1).to_pylist()[0]
        return row

    def place(self, number: int) -> str:
        file, within = self._find(number)
        return f"{self._paths[file]}, row {within + 1}"

    def default_id(self, number: int) -> str:
        file, within = self._find(number)
        return f"{self._names[file]}-{within + 1}"

    def _find(self, number: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return file, number - int(self._firsts[file])


def _unpacked(paths: Sequence[Path], reader: PromptReader) -> tuple[list[Any], list[int]]:
    """The record batches of all files, mapped into memory, and how many rows each file has."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UnavailableError(f"the task parquet needs pyarrow ({error}): pip install 'ais-rl[data]'") from error
    counts = []
    with TemporaryDirectory(prefix="ais-parquet-") as directory:
        unpacked = Path(directory) / "rows.arrow"
        schema, writer = None, None
        for path in paths:
            try:
                with parquet.ParquetFile(path) as file:
                    columns = _columns(path, file.schema_arrow.names, reader)
                    wanted = pa.schema([file.schema_arrow.field(name) for name in columns])
                    if writer is None:
                        schema, writer = wanted, pa.ipc.new_file(unpacked, wanted)
                    for batch in file.iter_batches(batch_size=BATCH, columns=columns):
                        writer.write_batch(batch.cast(schema))
                    counts.append(file.metadata.num_rows)
            except (OSError, pa.ArrowException) as error:
                raise TaskError(f"task file {path} cannot be read as Parquet: {error}") from error
            except ValueError as error:
                raise TaskError(f"task file {path} has other columns than {paths[0]}: {error}") from error
        assert writer is not None  # a setting names one file at least
        writer.close()
        mapped = pa.ipc.open_file(pa.memory_map(str(unpacked)))
    return [mapped.get_batch(number) for number in range(mapped.num_record_batches)], counts


def _columns(path: Path, there: Sequence[str], reader: PromptReader) -> list[str]:
    """The columns of the file that are read."""
    found = []
    for name in reader.needed:
        column = name if name in there else name.partition(".")[0]
        if column not in there:
            raise TaskError(f"task file {path}: {name}: there is no such column; there is {', '.join(there)}")
        found.append(column)
    return list(dict.fromkeys([*found, *(name for name in reader.welcome if name in there)]))
