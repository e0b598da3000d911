"""From settings to cells. Pure, but for the digests of models and data that a cell's identity holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from pydantic import ValidationError

from ais.comparison.identity import identity_of
from ais.comparison.settings import BF16, FORMATS, CompareSettings, Comparison, precision_of
from ais.comparison.trees import flat, merged, tree_of
from ais.contracts.sampling import Precision
from ais.runtime.explaining import explain
from ais.runtime.settings import SettingsError
from ais.settings import Settings

UNCORRECTED = "none"


@dataclass(frozen=True)
class Place:
    """Where a cell stands in the grid. Labels, as the results name them."""

    task: str
    format: str
    method: str
    staleness: int
    seed: int

    def __str__(self) -> str:
        late = f" staleness {self.staleness}" if self.staleness else ""
        return f"{self.task} {self.format} {self.method}{late} seed {self.seed}"

    @property
    def slug(self) -> str:
        """The same as the name of a run."""
        return re.sub(r"[^A-Za-z0-9_.]+", "-", str(self)).strip("-.")


@dataclass(frozen=True)
class Cell:
    """One training run of a comparison."""

    place: Place
    settings: Settings
    """All of them; the seed, the staleness, the correction and the precision are the cell's."""
    compare: CompareSettings
    """How it is scored."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the result depends on, but the code. Raises UnavailableError for a model or a file that is not there."""
        return identity_of(self.settings, self.compare)


@dataclass(frozen=True)
class Method:
    """One of `compare.methods`, read."""

    label: str
    correction: Mapping[str, Any]
    trainer: Mapping[str, Any]


def cells_of(comparison: Comparison) -> list[Cell]:
    """All cells, seeds outermost: after a few minutes there is a bit of everything. Raises SettingsError."""
    compare = comparison.compare
    methods = [_method(entry) for entry in compare.methods]
    formats = [precision_of(entry) for entry in compare.formats]
    _check_labels("methods", [method.label for method in methods])
    _check_labels("formats", [label for label, _precision in formats])
    pairs = [(label, precision, method) for label, precision in formats for method in methods]
    if compare.reference and not any((label, method.label) == (BF16, UNCORRECTED) for label, _, method in pairs):
        pairs.insert(0, (BF16, FORMATS[BF16], _method(UNCORRECTED)))
    tasks = _tasks(comparison)
    if compare.mode == "in_process":
        _check_single_responses(tasks)
    seeds = range(compare.seeds) if isinstance(compare.seeds, int) else compare.seeds
    return [
        Cell(
            Place(task, label, method.label, staleness, seed),
            _settings(base, precision, method, staleness, seed),
            compare,
        )
        for seed, (task, base), staleness, (label, precision, method) in product(
            seeds, tasks.items(), compare.staleness, pairs
        )
    ]


def _tasks(comparison: Comparison) -> dict[str, Settings]:
    """The settings of each task by its label."""
    tree = {name: value for name, value in tree_of(comparison).items() if name != "compare"}
    if not comparison.compare.tasks:
        return {comparison.collector.task.effective_label: _validated(tree, "")}
    return {
        label: _validated(merged(tree, own), f"compare.tasks.{label}: ")
        for label, own in comparison.compare.tasks.items()
    }


def _check_single_responses(tasks: Mapping[str, Settings]) -> None:
    """Raises SettingsError for tasks in turns: a cell in one process has no services to run an environment."""
    for label, settings in tasks.items():
        if any(source.effective_environment is not None for source in settings.collector.task.each_source):
            raise SettingsError(
                f"setting compare.mode: the task {label} has an environment, whose episodes a cell in one process does "
                'not sample; set it to "system"'
            )


def _settings(base: Settings, precision: Precision, method: Method, staleness: int, seed: int) -> Settings:
    own = {
        "run": {"seed": seed, "max_staleness": staleness},
        "rollout": {"precision": tree_of(precision)},
        "trainer": method.trainer,
    }
    tree = merged(tree_of(base), own) | {"correction": dict(method.correction)}
    return _validated(tree, f"compare.methods, {method.label}: ")


def _method(entry: str | Mapping[str, Any]) -> Method:
    given: Mapping[str, Any] = {"method": entry} if isinstance(entry, str) else entry
    correction = {name: value for name, value in given.items() if name not in ("label", "trainer")}
    if "method" not in correction:
        raise SettingsError(f'setting compare.methods: {dict(given)} names no method, such as method = "ais"')
    trainer = given.get("trainer", {})
    if not isinstance(trainer, Mapping):
        raise SettingsError(f"setting compare.methods: trainer must be a table of settings, got {trainer}")
    told = dict(flat({name: value for name, value in correction.items() if name != "method"})) | dict(flat(trainer))
    label = " ".join([str(correction["method"]), *(f"{name}={value}" for name, value in told.items())])
    return Method(str(given.get("label", label)), correction, trainer)


def _check_labels(setting: str, labels: list[str]) -> None:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise SettingsError(f"setting compare.{setting}: {', '.join(twice)} stands there twice; give each its label")


def _validated(tree: Mapping[str, Any], where: str) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError("\n".join(where + explain(Settings, details) for details in error.errors())) from None
