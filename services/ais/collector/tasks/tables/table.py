"""The prompts of a table: all rows checked before anything starts, some kept for evaluation, none kept in memory.

Kept for each row are digests of its question and its id, and where it lies: some 50 bytes.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ais.collector.prompts.prompts import Fits, Prompt, Split, TaskError
from ais.collector.tasks.order import permuted
from ais.collector.tasks.splits import Digests, digest_of, held_out
from ais.collector.tasks.tables.prompts import PromptReader
from ais.collector.tasks.tables.rows import PROBLEMS_SHOWN, Rows, raise_problems
from ais.runtime.process import UnavailableError

logger = logging.getLogger(__name__)


class TableTask:
    """The prompts of a split, in a new seeded order each epoch."""

    def __init__(self, table: Table, numbers: NDArray[np.int64], too_long: int, seed: int) -> None:
        """`numbers` of the table's rows are the split; `too_long` others were left out of it."""
        self.name = table.reader.source
        self.distinct: int | None = len(np.unique(table.digests[numbers]))
        self.too_long = too_long
        self._table = table
        self._numbers = numbers
        self._seed = seed

    @property
    def sources(self) -> tuple[TableTask, ...]:
        return (self,)

    def __len__(self) -> int:
        return len(self._numbers)

    def prompt(self, ordinal: int) -> Prompt:
        """Raises TaskError for a row that can no longer be read."""
        epoch, position = divmod(ordinal, len(self._numbers))
        number = int(self._numbers[permuted(position, len(self._numbers), f"{self._seed}:{epoch}")])
        try:
            return self._table.prompt(number)
        except ValueError as error:
            raise TaskError(f"{self._table.rows.place(number)}: {error}: was it changed since the start?") from error


@dataclass(frozen=True)
class Table:
    """Rows that have all been read once."""

    rows: Rows
    reader: PromptReader
    name: str
    """What an error calls the table."""
    digests: Digests
    """uint64 [rows]: each one's question."""
    fits: NDArray[np.bool_]
    """bool [rows]: whether its prompt leaves room for an answer."""

    def prompt(self, number: int) -> Prompt:
        """Raises ValueError."""
        return self.reader.prompt(self.rows[number], self.rows.default_id(number))


def survey(rows: Rows, reader: PromptReader, name: str, fits: Fits) -> Table:
    """Reads every row. Raises TaskError that names the first rows that are wrong, with what is wrong with each."""
    digests, ids = np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.uint64)
    fitting = np.ones(len(rows), np.bool_)
    problems = []
    for number in range(len(rows)):
        try:
            prompt = reader.prompt(rows[number], rows.default_id(number))
            digests[number] = digest_of(prompt.question)
            ids[number] = _digest(prompt.prompt_id)
            fitting[number] = fits(prompt.question)
        except (ValueError, UnavailableError) as error:
            problems.append(f"{rows.place(number)}: {error}")
            ids[number] = _digest(f"\0{number}")
    raise_problems(problems or _shared_ids(rows, reader, ids))
    if not len(rows):
        raise TaskError(f"{name} has no prompts")
    return Table(rows, reader, name, digests, fitting)


@dataclass(frozen=True)
class Tables:
    """A table to train on, and perhaps another one to evaluate on."""

    table: Table
    others: Table | None
    held_out_fraction: float
    """The share of `table` that is for evaluation where there are no others."""
    too_long: Literal["refuse", "skip"]

    def task(self, split: Split, seed: int) -> TableTask:
        """The prompts of a split that fit. No prompt that evaluation has is trained on.

        Raises TaskError where there are none, and for prompts that do not fit where those are refused.
        """
        table, numbers = self._rows_of(split)
        fits = table.fits[numbers]
        if self.too_long == "refuse":
            raise_problems(
                [
                    f"{table.rows.place(int(number))}: prompt: longer than the replicas' context; "
                    'rollout.max_model_len sets theirs, collector.task.too_long = "skip" leaves such prompts out'
                    for number in numbers[~fits]
                ]
            )
        if left_out := int((~fits).sum()):
            extra = {"source": table.name, "split": str(split), "count": left_out}
            logger.warning("prompts too long for the replicas are left out", extra=extra)
        if not fits.any():
            raise TaskError(f"{table.name} has no {split} prompts{self._advice(split)}")
        return TableTask(table, numbers[fits], left_out, seed)

    def _rows_of(self, split: Split) -> tuple[Table, NDArray[np.int64]]:
        if self.others is None:
            kept = held_out(self.table.digests, self.held_out_fraction)
            return self.table, np.flatnonzero(kept == (split is Split.HELD_OUT))
        if split is Split.HELD_OUT:
            return self.others, np.arange(len(self.others.digests))
        shared = np.isin(self.table.digests, self.others.digests)
        if shared.any():
            extra = {"source": self.table.name, "left_out": int(shared.sum())}
            logger.warning("prompts that are held out too are left out of training", extra=extra)
        return self.table, np.flatnonzero(~shared)

    def _advice(self, split: Split) -> str:
        if self.others is not None:
            return " that fit" if split is Split.HELD_OUT else " that fit and are not held out"
        if self.held_out_fraction == 1.0:
            return ": held_out_fraction = 1 keeps all for evaluation; in a mixture such a source has weight = 0"
        return ": it needs two different ones that fit, one to train on and one to evaluate on"


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _shared_ids(rows: Rows, reader: PromptReader, ids: Digests) -> list[str]:
    """A problem for each row whose id an earlier row has."""
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order][1:] == ids[order][:-1]) + 1
    problems = []
    for index in np.sort(again)[: 10 * PROBLEMS_SHOWN]:
        first, second = int(order[index - 1]), int(order[index])
        names = [reader.prompt(rows[number], rows.default_id(number)).prompt_id for number in (first, second)]
        if names[0] == names[1]:  # and not only their digests
            problems.append((second, f"{rows.place(second)}: id: {names[1]!r} is that of {rows.place(first)} too"))
    return [problem for _, problem in sorted(problems)]
