"""What the page is told of a run's steps: the buckets that it has not seen, of the quantities that it plots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ais.console.buckets import last_rows, summarise, width_for
from ais.console.columns import Columns, Values

MOST_KEYS = 200
"""Quantities of one answer."""


@dataclass(frozen=True)
class Seen:
    """What a page has already."""

    generation: int = 0
    rows: int = 0
    width: int = 0


def curves(columns: Columns, generation: int, keys: Iterable[str], seen: Seen) -> dict[str, Any]:
    """The buckets of all rows from the first that `seen` lacks, as JSON: `begin` is its number. The steps at their
    ends, and for each key `mean`, `low` and `high`; of buckets of one row, whose three are the same, `mean` alone."""
    width = width_for(columns.rows)
    goes_on = (seen.generation, seen.width) == (generation, width) and seen.rows <= columns.rows
    begin = max(0, seen.rows - 1) // width if goes_on else 0
    told = _told(columns, keys, begin * width, columns.rows, width)
    return {"generation": generation, "rows": columns.rows, "width": width, "begin": begin, **told}


def stretch(columns: Columns, generation: int, keys: Iterable[str], first: float, last: float) -> dict[str, Any]:
    """The same for the steps `first` to `last` alone, in as much detail as there is room for."""
    steps = columns.get("step")
    begin, end = int(np.searchsorted(steps, first)), int(np.searchsorted(steps, last, side="right"))
    width = width_for(end - begin)
    told = _told(columns, keys, begin, end, width)
    return {"generation": generation, "rows": columns.rows, "width": width, "begin": 0, **told}


def _told(columns: Columns, keys: Iterable[str], first: int, end: int, width: int) -> dict[str, Any]:
    if first >= end:
        return {"steps": [], "series": {}}
    series = {}
    for key in list(_named(columns, keys))[:MOST_KEYS]:
        found = summarise(columns.get(key), first, end, width)
        parts = {"mean": found.mean} if width == 1 else {"mean": found.mean, "low": found.low, "high": found.high}
        series[key] = {name: _json(values) for name, values in parts.items()}
    return {"steps": _json(columns.get("step")[last_rows(first, end, width)]), "series": series}


def _named(columns: Columns, keys: Iterable[str]) -> Iterator[str]:
    """A key that ends with a dot stands for all that begin so."""
    for key in keys:
        if key.endswith("."):
            yield from (one for one in columns.keys if one.startswith(key))
        elif key in columns.keys:
            yield key


def _json(values: Values) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]
