"""Opens the prompts that the settings ask for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ais.collector.prompts.prompts import Fits, Split, TaskSource, anything_fits
from ais.collector.settings import SourceSettings, TaskSettings
from ais.collector.tasks.calculations import CalculationsTask
from ais.collector.tasks.guess_number import GuessNumberTask
from ais.collector.tasks.mixture import Mixture
from ais.collector.tasks.own import MadeTask, Maker, OwnRows, make
from ais.collector.tasks.reasoning_gym import ReasoningGymTask, check_scorable
from ais.collector.tasks.sort import SortTask
from ais.collector.tasks.tables.files import files_of
from ais.collector.tasks.tables.hub import HubRows
from ais.collector.tasks.tables.json_files import JsonRows
from ais.collector.tasks.tables.parquet import ParquetRows
from ais.collector.tasks.tables.prompts import PromptReader
from ais.collector.tasks.tables.rows import Rows
from ais.collector.tasks.tables.table import Table, Tables, survey
from ais.collector.tasks.verifiers_package.tasks import verifiers_tables
from ais.collector.tasks.worked.sort_swaps import SortSwapsTask
from ais.collector.tasks.worked.sum_chain import SumChainTask


def open_task(settings: TaskSettings, seed: int, split: Split, fits: Fits = anything_fits) -> TaskSource:
    """The prompts of one split, as `open_splits` gives them."""
    return open_splits(settings, seed, (split,), fits)[0]


def open_splits(
    settings: TaskSettings, seed: int, splits: tuple[Split, ...], fits: Fits = anything_fits
) -> tuple[TaskSource, ...]:
    """The prompts of several splits, for which each row is read once.

    Raises TaskError for a file or row that cannot be used, and for an unknown dataset; UnavailableError for a library
    that is not installed. `fits` says whether a question leaves the replicas room for an answer. Rows are checked
    against it here, with `too_long` deciding; problems that are made are made again until one fits. Training has only
    the sources of a mixture that have a weight; evaluation has all.
    """
    if settings.name != "mixture":
        return _open_source(settings, seed, splits, fits)
    opened = []
    for source in settings.sources:
        wanted = tuple(split for split in splits if source.weight > 0 or split is not Split.TRAIN)
        opened.append(dict(zip(wanted, _open_source(source, seed, wanted, fits), strict=True)))
    mixtures = []
    for split in splits:
        there = [
            (source.weight, has[split]) for source, has in zip(settings.sources, opened, strict=True) if split in has
        ]
        mixtures.append(Mixture([task for _, task in there], [weight for weight, _ in there], seed))
    return tuple(mixtures)


def _open_source(settings: SourceSettings, seed: int, splits: tuple[Split, ...], fits: Fits) -> tuple[TaskSource, ...]:
    label = settings.effective_label
    if settings.name == "sort":
        return tuple(SortTask(settings.digits, seed, split, label) for split in splits)
    if settings.name == "sort_swaps":
        return tuple(SortSwapsTask(settings.digits, seed, split, label) for split in splits)
    if settings.name == "sum_chain":
        return tuple(SumChainTask(settings.terms, settings.digits, seed, split, label) for split in splits)
    if settings.name == "guess_number":
        return tuple(GuessNumberTask(settings.highest, seed, split, label) for split in splits)
    if settings.name == "calculations":
        return tuple(CalculationsTask(seed, split, label) for split in splits)
    if settings.name == "reasoning_gym":
        return tuple(ReasoningGymTask(settings.datasets, seed, split, fits, label) for split in splits)
    if settings.name == "verifiers":
        tables = verifiers_tables(settings, fits)
        return tuple(tables.task(split, seed) for split in splits)
    check = check_scorable if settings.needs_reasoning_gym else None
    reader = PromptReader.of(settings.columns, label, needs_answer=settings.needs_answer, check=check)
    if settings.name == "python":
        made = make(settings)
        if isinstance(made, Maker):
            opened = partial(MadeTask, made, reader, settings.held_out_fraction, seed)
            return tuple(opened(split, fits) for split in splits)
        tables = _tables(settings, survey(OwnRows(made, label), reader, label, fits), None)
    else:
        tables = _stored(settings, reader, fits)
    return tuple(tables.task(split, seed) for split in splits)


def _stored(settings: SourceSettings, reader: PromptReader, fits: Fits) -> Tables:
    """The tables that the settings name, each row of them read."""
    if settings.name == "huggingface":
        table = _from_hub(settings, settings.split, reader, fits)
        others = _from_hub(settings, settings.held_out_split, reader, fits) if settings.held_out_split else None
    else:
        assert settings.file  # the settings model has checked it
        table = _from_files(settings, settings.file, reader, fits)
        others = _from_files(settings, settings.held_out_file, reader, fits) if settings.held_out_file else None
    return _tables(settings, table, others)


def _from_hub(settings: SourceSettings, split: str, reader: PromptReader, fits: Fits) -> Table:
    rows = HubRows(settings, split, reader)
    return survey(rows, reader, f"the dataset {settings.dataset or settings.file}, split {split},", fits)


def _from_files(settings: SourceSettings, named: Path | tuple[Path, ...], reader: PromptReader, fits: Fits) -> Table:
    files = files_of(named)
    rows: Rows = ParquetRows(files, reader) if settings.name == "parquet" else JsonRows(files)
    return survey(rows, reader, f"task file {', '.join(map(str, files))}", fits)


def _tables(settings: SourceSettings, table: Table, others: Table | None) -> Tables:
    return Tables(table, others, settings.held_out_fraction, settings.too_long)
