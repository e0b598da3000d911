"""Which data a run was begun with: a digest of each file that its prompts are read from.

Every byte of every file is hashed (BLAKE3), about 2 GB a second of one core. That is under 1% of the time in which
JSONL is checked before a run starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from ais.collector.prompts.prompts import TaskError
from ais.collector.settings.sources import SourceSettings, TaskSettings
from ais.collector.tasks.tables.files import files_of
from ais.contracts.weights.offer import digest_of_file


class DataFile(BaseModel):
    """One file and its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: str
    """The key that names it, such as collector.task.file."""
    path: str
    size: int
    """Bytes."""
    digest: str


DataFiles = TypeAdapter(tuple[DataFile, ...])
"""What is written of a run's data, as JSON."""


def data_files(task: TaskSettings) -> tuple[DataFile, ...]:
    """The files of all sources, as they are now. Datasets of the hub and functions have none.

    Raises TaskError for a file that cannot be read.
    """
    mixture = task.name == "mixture"
    found: list[DataFile] = []
    for number, source in enumerate(task.each_source):
        prefix = f"collector.task.sources.{number}" if mixture else "collector.task"
        for key, path in _paths_of(source):
            try:
                size, digest = path.stat().st_size, digest_of_file(path)
            except OSError as error:
                raise TaskError(f"cannot read task file {path}: {error.strerror}") from error
            found.append(DataFile(setting=f"{prefix}.{key}", path=str(path.absolute()), size=size, digest=digest))
    return tuple(found)


def changes(before: Sequence[DataFile], now: Sequence[DataFile]) -> list[str]:
    """What differs, a line for each file. A file that was only moved does not. Pure."""
    problems = []
    for setting in dict.fromkeys(file.setting for file in (*before, *now)):
        old, new = ([file for file in files if file.setting == setting] for files in (before, now))
        if len(old) == len(new):
            problems += [_other(was, file) for was, file in zip(old, new, strict=True) if was.digest != file.digest]
            continue
        known, there = {file.path for file in old}, {file.path for file in new}
        problems += [f"{setting}: {file.path} is gone" for file in old if file.path not in there]
        problems += [f"{setting}: {file.path} was not there" for file in new if file.path not in known]
    return problems


def _other(was: DataFile, now: DataFile) -> str:
    return f"{now.setting}: {now.path} has another content ({was.size:,} bytes then, {now.size:,} now)"


def _paths_of(source: SourceSettings) -> Iterator[tuple[str, Path]]:
    if source.name in ("jsonl", "parquet"):
        for key, named in (("file", source.file), ("held_out_file", source.held_out_file)):
            for path in files_of(named) if named else ():
                yield key, path
    elif source.name == "huggingface" and isinstance(source.file, Path):
        for path in sorted(source.file.rglob("*")):
            if path.is_file() and not _is_cache(path.relative_to(source.file)):
                yield "file", path


def _is_cache(path: Path) -> bool:
    """Whether the library datasets keeps it beside the data for itself: caches, locks."""
    return path.name.startswith("cache-") or any(part.startswith(".") for part in path.parts)
