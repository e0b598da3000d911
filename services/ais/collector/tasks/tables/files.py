"""The files that a setting names: one, several, or those that a pattern matches."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from ais.collector.prompts.prompts import TaskError
from ais.collector.tasks.tables.compressed import plain_name

_MAGIC = frozenset("*?[")


def files_of(named: Path | Sequence[Path]) -> tuple[Path, ...]:
    """The files in the order of the setting, those of a pattern by name. Raises TaskError for a pattern without any.

    A path that exists is that file, whatever characters its name has.
    """
    files: list[Path] = []
    for path in [named] if isinstance(named, Path) else named:
        if path.exists() or not _MAGIC & set(str(path)):
            files.append(path)
            continue
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207
        if not found:
            raise TaskError(f"no file matches {path}")
        files += found
    return tuple(files)


def names_of(files: Sequence[Path]) -> tuple[str, ...]:
    """A short name for each file, no two the same: its stem, and its number where stems are shared."""
    stems = [plain_name(file).stem for file in files]
    if len(set(stems)) == len(stems):
        return tuple(stems)
    return tuple(f"{stem}-{number}" for number, stem in enumerate(stems, start=1))
