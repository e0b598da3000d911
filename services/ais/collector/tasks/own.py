"""Prompts of the user's own Python: a table of rows, or rows made on demand.

`function` names what makes the source, `module:function` or an entry point of the group `ais.tasks`. It is called with
the settings' `parameters` and gives one of two:

- a table, with `len(table)` and `table[number]`: a list of dictionaries is one;
- a maker, with `draw(generator)`: a row made from nothing but a `random.Random`, which is another one for each ordinal.

A row is a dictionary with the columns that the settings name. The function runs in the collector's process, when that
starts.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, cast, runtime_checkable

from ais.collector.prompts.prompts import Fits, Prompt, Split, TaskError
from ais.collector.settings.sources import SourceSettings
from ais.collector.tasks.splits import is_held_out
from ais.collector.tasks.tables.prompts import PromptReader
from ais.collector.tasks.tables.rows import Row

GROUP = "ais.tasks"
MOST_DRAWS = 1024
"""Rows drawn for one prompt before its split counts as empty."""


@runtime_checkable
class Maker(Protocol):
    """Makes rows on demand."""

    def draw(self, generator: random.Random, /) -> Row:
        """A row that depends on `generator` alone."""
        ...


class MadeTask:
    """Endless prompts of a maker. A digest of its question says which split a prompt is in."""

    distinct: int | None = None
    too_long = 0

    def __init__(
        self, maker: Maker, reader: PromptReader, fraction: float, seed: int, split: Split, fits: Fits
    ) -> None:
        """Raises TaskError when a row cannot be used, and when the split has none that fit."""
        self.name = reader.source
        self._maker = maker
        self._reader = reader
        self._fraction = fraction
        self._wants_held_out = split is Split.HELD_OUT
        self._stream = f"{seed}:{split}"
        self._fits = fits
        self.prompt(0)

    @property
    def sources(self) -> tuple[MadeTask, ...]:
        return (self,)

    def prompt(self, ordinal: int) -> Prompt:
        """Raises TaskError for a row that cannot be used."""
        generator = random.Random(f"{self._stream}:{ordinal}")
        for draw in range(MOST_DRAWS):
            try:
                prompt = self._reader.prompt(self._maker.draw(generator), f"{self.name}-{ordinal}-{draw}")
            except Exception as error:  # it may be anybody's code
                what = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                raise TaskError(f"{self.name}, the row made for ordinal {ordinal}: {what}") from error
            if is_held_out(prompt.question, self._fraction) == self._wants_held_out and self._fits(prompt.question):
                return prompt
        raise TaskError(
            f"{self.name} makes too few different prompts to keep some apart for evaluation "
            "(collector.task.held_out_fraction), or most are longer than the replicas' context"
        )


class OwnRows:
    """The rows of a table of the user's."""

    def __init__(self, table: Sequence[Row], label: str) -> None:
        self._table = table
        self._label = label

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> Row:
        try:
            row = self._table[number]
        except Exception as error:  # it may be anybody's code
            raise ValueError(f"cannot be read: {type(error).__name__}: {error}") from error
        if not isinstance(row, Mapping):
            raise ValueError(f"expected a dictionary, got {type(row).__name__}")
        return row

    def place(self, number: int) -> str:
        return f"{self._label}, row {number + 1}"

    def default_id(self, number: int) -> str:
        return f"{self._label}-{number + 1}"


def make(settings: SourceSettings) -> Sequence[Row] | Maker:
    """What the user's function gives. Raises TaskError where it cannot be found, fails, or gives neither."""
    name = str(settings.function)
    try:
        made = _found(settings, name)(**settings.parameters)
    except TaskError:
        raise
    except Exception as error:  # importing and calling it run anybody's code
        raise TaskError(f"the task {name} cannot be made: {type(error).__name__}: {error}") from error
    if isinstance(made, Maker) or (hasattr(made, "__len__") and hasattr(made, "__getitem__")):
        return cast("Sequence[Row] | Maker", made)
    raise TaskError(
        f"the task {name} gives a {type(made).__name__}: expected a table, with a length and rows by number, or an "
        "object with draw(generator)"
    )


def _found(settings: SourceSettings, name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon:
        known = {entry.name: entry for entry in entry_points(group=GROUP)}
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise TaskError(f"no installed package has a task {name} (entry points of {GROUP}: {there})")
        return known[name].load()
    directory = settings.directory
    if directory is not None and str(directory.absolute()) not in sys.path:
        sys.path.insert(0, str(directory.absolute()))
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found
