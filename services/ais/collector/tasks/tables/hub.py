"""Rows of Hugging Face datasets, from the hub, its cache, or a directory: Arrow files, mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ais.collector.prompts.prompts import TaskError
from ais.collector.settings.sources import SourceSettings
from ais.collector.tasks.tables.prompts import PromptReader
from ais.collector.tasks.tables.rows import Row
from ais.runtime.process import UnavailableError


class HubRows:
    """The rows of one split of a dataset."""

    def __init__(self, settings: SourceSettings, split: str, reader: PromptReader) -> None:
        """Raises TaskError for a dataset, a split or a column that is not there."""
        self._name = f"{settings.dataset or settings.file}, split {split}"
        self._label = f"{settings.effective_label}-{split}"
        there = _loaded(settings, split)
        columns = []
        for name in reader.needed:
            column = name if name in there.column_names else name.partition(".")[0]
            if column not in there.column_names:
                known = ", ".join(there.column_names)
                raise TaskError(f"{self._name}: {name}: there is no such column; there is {known}")
            columns.append(column)
        columns += [name for name in reader.welcome if name in there.column_names]
        self._dataset = there.select_columns(list(dict.fromkeys(columns)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: int) -> Row:
        row: Row = self._dataset[number]
        return row

    def place(self, number: int) -> str:
        return f"{self._name}, row {number + 1}"

    def default_id(self, number: int) -> str:
        return f"{self._label}-{number + 1}"


def _loaded(settings: SourceSettings, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UnavailableError(
            f"the task huggingface needs the library datasets ({error}): pip install 'ais-rl[data]'"
        ) from error
    datasets.disable_progress_bars()
    name = str(settings.dataset or settings.file)
    try:
        if settings.dataset is None and _is_saved(Path(name)):
            return _split_of(datasets.load_from_disk(name), name, split)
        return datasets.load_dataset(name, settings.dataset_config, split=split, revision=settings.revision)
    except TaskError:
        raise
    except Exception as error:  # reading and downloading fail in every way there is
        raise TaskError(
            f"the dataset {name}, split {split}, cannot be loaded: {type(error).__name__}: {error}. A host without the "
            "hub needs it in its cache, or saved by `save_to_disk` to a directory that collector.task.file names"
        ) from error


def _is_saved(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _split_of(saved: Any, directory: str, split: str) -> Any:
    """A split of what `save_to_disk` has written: several splits by name, or one without a name."""
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise TaskError(f"the dataset {directory} has no split {split}; there is {', '.join(saved)}")
    return saved[split]
