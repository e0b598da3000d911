"""Where prompts come from: the demo's own task, and which one the settings ask for."""

from __future__ import annotations

import random

from ais.collector.prompts.prompts import Fits, Prompt, Split, TaskSource, anything_fits
from ais.collector.settings import TaskSettings
from ais.collector.tasks.jsonl import open_jsonl
from ais.collector.tasks.reasoning_gym import ReasoningGymTask, check_scorable
from ais.collector.tasks.worked.sort_swaps import SortSwapsTask
from ais.collector.tasks.worked.sum_chain import SumChainTask


class SortTask:
    """Sort digits: `3914=` is answered by `1349`. Real, verifiable, and learnable in a minute on two cores."""

    distinct: int | None = None

    def __init__(self, digits: int, seed: int, split: Split) -> None:
        self.name = f"sort{digits}"
        self._digits = digits
        self._stream = f"{seed}:{split}"

    def prompt(self, ordinal: int) -> Prompt:
        # A string seed is hashed with SHA-512 by `random`: stable across processes and Python versions.
        generator = random.Random(f"{self._stream}:{ordinal}")
        digits = "".join(generator.choices("0123456789", k=self._digits))
        return Prompt(prompt_id=f"{self.name}-{digits}", text=f"{digits}=", answer="".join(sorted(digits)))


def open_task(settings: TaskSettings, seed: int, split: Split, fits: Fits = anything_fits) -> TaskSource:
    """The prompts of a split. Raises TaskError for a file or row that cannot be used, and for an unknown dataset.

    `fits` says whether a problem's text leaves the replicas room for an answer. Files are checked against it here, with
    `settings.too_long` deciding; problems that are made are made again until one fits.
    """
    if settings.name == "sort":
        return SortTask(settings.digits, seed, split)
    if settings.name == "sort_swaps":
        return SortSwapsTask(settings.digits, seed, split)
    if settings.name == "sum_chain":
        return SumChainTask(settings.terms, settings.digits, seed, split)
    if settings.name == "reasoning_gym":
        return ReasoningGymTask(settings.datasets, seed, split, fits)
    task = open_jsonl(settings, seed, split, fits)
    if settings.effective_verifier == "reasoning_gym":
        check_scorable(task.prompts)
    return task
