"""Settings of `ais compare`: those of a run, and the section [compare], which says what varies between the cells.

No heavy import here: the command line reads them in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ais.contracts.sampling import Precision
from ais.runtime.reading import anchor_paths, read_settings
from ais.runtime.settings import Count, CountOrNone, Section, SettingsError
from ais.settings import Settings
from ais_core.settings import CorrectionSettings

BF16 = "bf16"
FORMATS: Mapping[str, Precision] = {
    BF16: Precision(weights="bf16"),
    "e4m3": Precision(weights="e4m3", granularity="channel", activations="e4m3"),
    "e4m3_ls": Precision(weights="e4m3", granularity="channel", activations="e4m3", scales="least_squares"),
    "e4m3_kv_head": Precision(
        weights="e4m3", granularity="channel", activations="e4m3", kv_cache="e4m3", head=True
    ),
    "e5m2": Precision(weights="e5m2", granularity="tensor", activations="e5m2", head=True),
    "e5m2_ls": Precision(
        weights="e5m2", granularity="tensor", activations="e5m2", head=True, scales="least_squares"
    ),
    "int8": Precision(weights="int8", granularity="channel", activations="int8"),
    "w4a8": Precision(weights="e2m1", granularity="channel", activations="e4m3"),
    "w4a8_ls": Precision(weights="e2m1", granularity="channel", activations="e4m3", scales="least_squares"),
}  # fmt: skip
"""Formats by name. w4a8 is the stress: a mismatch that hurts in two minutes. FP8 is what engines really serve."""

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


class CompareSettings(Section):
    """What varies between the cells, and how each is scored. A cell is one of each: task, format, method, staleness and
    seed."""

    methods: tuple[str | dict[str, Any], ...] = ("none", "ais")
    """Corrections. A name of `correction.method`, or a table of the settings of [correction], such as
    {method = "tis", level = "sequence"}. A table may also have a `label`, its name in the results, and `trainer`, which
    differs for it: {label = "honest", method = "ais", trainer.objective.straight_through = true}. What is not given has
    its default, not the [correction] of the file."""
    formats: tuple[str | dict[str, Any], ...] = ("e4m3",)
    """Number formats of the rollouts. One of bf16, e4m3, e4m3_ls, e4m3_kv_head, e5m2, e5m2_ls, int8, w4a8, w4a8_ls
    (`_ls`: scales of least squares), or a table of rollout.precision's settings, which may have a `label`."""
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Tasks by their labels, each with the settings that differ for it, such as
    [compare.tasks.sort48] with run.model, run.steps and collector.task.digits. None: the one of the file."""
    seeds: Annotated[int, Field(ge=1, le=10_000)] | tuple[Seed, ...] = 3
    """How many seeds, from 0, or a list of them. A cell's seed takes the place of run.seed."""
    staleness: tuple[CountOrNone, ...] = (0,)
    """Versions that rollouts are behind the policy they train; takes the place of run.max_staleness. In process they
    are behind by exactly so many, in a system by at most so many."""
    reference: bool = True
    """Whether uncorrected training on BF16 rollouts, which others are compared with, is a cell of each task, staleness
    and seed."""
    mode: Literal["in_process", "system"] = "in_process"
    """in_process: a cell is trained in one process on one core, by the services' own parts, and cells go on side by
    side. system: a cell is an `ais run` with everything, one after another."""
    evaluate_every: Count = 20
    """Steps between evaluations of both policies on held-out prompts, which are the same for all cells of a task."""
    evaluation_prompts: Count = 512
    """Held-out prompts of an evaluation, one response each."""
    final_prompts: Count = 2048
    """The same for the evaluation after the last step. A system evaluates all its checkpoints on this many."""

    @model_validator(mode="after")
    def _something_is_compared(self) -> Self:
        for name in ("methods", "formats", "staleness", "seeds"):
            value = getattr(self, name)
            if isinstance(value, tuple) and not value:
                raise ValueError(f"compare.{name} is empty: there is nothing to train")
        return self


class Comparison(Settings):
    """All that `ais compare` reads: the settings of a run, common to all cells, and what varies."""

    compare: CompareSettings = CompareSettings()

    @model_validator(mode="after")
    def _methods_stand_in_one_place(self) -> Self:
        if self.correction != CorrectionSettings():
            raise ValueError(
                "[correction] is not read by a comparison: give its settings with the method, such as "
                'compare.methods = [{method = "ais", level = "token"}]'
            )
        return self


def load_comparison(file: Path | None, overrides: Iterable[str] = ()) -> Comparison:
    """The effective settings, checked; relative paths of a file's tasks count from its directory. Raises
    SettingsError."""
    comparison = read_settings(Comparison, file, overrides)
    if file is not None:
        for tree in comparison.compare.tasks.values():
            anchor_paths(Settings, tree, file.absolute().parent)
    return comparison


def precision_of(entry: str | Mapping[str, Any]) -> tuple[str, Precision]:
    """Label and precision of one of `compare.formats`. Raises SettingsError."""
    if isinstance(entry, str):
        if entry not in FORMATS:
            raise SettingsError(f"setting compare.formats: there is no {entry}; there are {', '.join(FORMATS)}")
        return entry, FORMATS[entry]
    given = {name: value for name, value in entry.items() if name != "label"}
    try:
        precision = Precision.model_validate(given)
    except ValueError as error:
        raise SettingsError(f"setting compare.formats: {dict(entry)}: {error}") from None
    return str(entry.get("label", precision)), precision
