"""Opens the prompts that the settings ask for."""

from __future__ import annotations

from ais.collector.prompts.prompts import Fits, Split, TaskSource, anything_fits
from ais.collector.settings import SourceSettings, TaskSettings
from ais.collector.tasks.jsonl import open_jsonl
from ais.collector.tasks.mixture import Mixture
from ais.collector.tasks.reasoning_gym import ReasoningGymTask, check_scorable
from ais.collector.tasks.sort import SortTask


def open_task(settings: TaskSettings, seed: int, split: Split, fits: Fits = anything_fits) -> TaskSource:
    """The prompts of a split. Raises TaskError for a file or row that cannot be used, and for an unknown dataset.

    `fits` says whether a question leaves the replicas room for an answer. Files are checked against it here, with
    `too_long` deciding; problems that are made are made again until one fits. Training has only the sources of a
    mixture that have a weight; evaluation has all.
    """
    if settings.name != "mixture":
        return _open_source(settings, seed, split, fits)
    chosen = [source for source in settings.sources if source.weight > 0 or split is not Split.TRAIN]
    opened = [_open_source(source, seed, split, fits) for source in chosen]
    weights = [source.weight for source in chosen]
    return Mixture(opened, weights, seed)


def _open_source(settings: SourceSettings, seed: int, split: Split, fits: Fits) -> TaskSource:
    label = settings.effective_label
    if settings.name == "sort":
        return SortTask(settings.digits, seed, split, label)
    if settings.name == "reasoning_gym":
        return ReasoningGymTask(settings.datasets, seed, split, fits, label)
    task = open_jsonl(settings, seed, split, fits)
    if settings.effective_verifier == "reasoning_gym":
        check_scorable(task.prompts)
    return task
